# %% [markdown]
# # Questions about the PEPs, in LlamaIndex
#
# A query engine over about 2,000 passages of Python Enhancement Proposals. Nothing needs a network. By default the
# language model only repeats its prompt. `FASTLANE_EXAMPLES_LLM=smollm2` uses SmolLM2 instead, and the outputs below
# are from it. It has 135 million parameters, so some of its answers are wrong although the right passage is in the
# prompt.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from typing import Any

from fastlane_rag import FastLaneModel
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneRetriever

from common import generator, pep_index

# %% [markdown]
# ## The retriever
#
# `FastLaneRetriever.from_nodes(nodes)` makes an index in memory. Here the retriever opens an index on disk that was
# made without LlamaIndex. Its documents become text nodes.

# %%
model = FastLaneModel.from_pretrained()
index = pep_index(model)
retriever = FastLaneRetriever(index, similarity_top_k=3)
question = "How can two mappings be joined into a new one with an operator?"
for scored in retriever.retrieve(question):
    print(f"{scored.score:6.2f}  {scored.metadata['title']}")
    print("       ", scored.text[:110], "...")

# %% [markdown]
# Filters are LlamaIndex's own. Every operator works, and they apply before ranking.

# %%
recent = MetadataFilters(filters=[MetadataFilter(key="pep", operator=FilterOperator.GTE, value=600)])
for scored in FastLaneRetriever(index, similarity_top_k=2, filters=recent).retrieve("new syntax for errors"):
    print(scored.metadata["title"])

# %% [markdown]
# ## The query engine

# %%
generate = generator()


class Small(CustomLLM):
    """A function from prompt to text as a LlamaIndex model."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, num_output=60, model_name="SmolLM2-135M-Instruct")

    def complete(self, prompt: str, **_: Any) -> CompletionResponse:
        return CompletionResponse(text=generate(prompt))

    def stream_complete(self, prompt: str, **_: Any) -> Any:
        yield self.complete(prompt)


llm = MockLLM() if generate is None else Small()
engine = RetrieverQueryEngine.from_args(retriever, llm=llm)

# %%
questions = [
    question,
    "Why was the hash function of strings replaced?",
    "What lets an object be used wherever a path string is expected?",
]
for asked in questions:
    response = engine.query(asked)
    print("Q:", asked)
    print("A:", str(response)[:400].replace("\n", " "))
    print("  ", ", ".join(scored.node_id for scored in response.source_nodes), "\n")

# %% [markdown]
# ## Reranking
#
# `FastLaneRerank` gives the same scores behind any retriever. Here a retriever with one routed token and no refinement
# finds twenty nodes, and the reranker keeps the best three.

# %%
quick = FastLaneRetriever(index, similarity_top_k=20, route_k=1, refine=False)
reranking = RetrieverQueryEngine.from_args(quick, llm=llm, node_postprocessors=[FastLaneRerank(model, top_n=3)])
for scored in reranking.query(question).source_nodes:
    print(f"{scored.score:6.2f}  {scored.metadata['title']}")

# %%
assert any(scored.metadata["pep"] == 584 for scored in engine.query(question).source_nodes)
index.close()
