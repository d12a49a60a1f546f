# %% [markdown]
# # Questions about the PEPs, in LangChain
#
# A retrieval chain over about 2,000 passages of Python Enhancement Proposals. Nothing needs a network: the passages
# and FastLane's model come with the package. By default the language model only repeats its prompt, which shows
# exactly what retrieval gave it. `FASTLANE_EXAMPLES_LLM=smollm2` uses SmolLM2 instead, and the outputs below are from
# it. It has 135 million parameters, so some of its answers are wrong although the right passage is in the prompt.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from fastlane_rag import FastLaneModel
from langchain_core.language_models import ParrotFakeChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_fastlane import FastLaneRetriever

from common import generator, pep_index

# %% [markdown]
# ## The retriever
#
# `FastLaneRetriever.from_texts(texts)` makes an index in memory. Here the index is on disk, and is opened again.

# %%
model = FastLaneModel.from_pretrained()
index = pep_index(model)
retriever = FastLaneRetriever(index=index, k=3, score_key="score")
retriever

# %%
question = "Which symbol was chosen for multiplying matrices?"
for document in retriever.invoke(question):
    print(f"{document.metadata['score']:6.2f}  {document.metadata['title']}")
    print("       ", document.page_content[:110], "...")

# %% [markdown]
# Each call may change the search: how many documents, which of them, and how many query tokens gather candidates.

# %%
for document in retriever.invoke(question, k=2, filter={"pep": {"$gte": 3000}}, route_k="auto"):
    print(document.metadata["title"])

# %% [markdown]
# ## The chain

# %%
prompt = ChatPromptTemplate.from_template(
    "Answer in one short sentence, from the context alone.\n\nContext:\n{context}\n\nQuestion: {question}"
)
generate = generator()
if generate is None:
    llm = ParrotFakeChatModel() | StrOutputParser()
else:
    llm = RunnableLambda(lambda value: generate(value.to_messages()[-1].content))


def joined(documents):
    return "\n\n".join(document.page_content[:600] for document in documents)


answer = (
    {"context": lambda given: joined(given["documents"]), "question": lambda given: given["question"]} | prompt | llm
)
chain = RunnableParallel(documents=retriever, question=RunnablePassthrough()).assign(answer=answer)

# %%
questions = [
    question,
    "How do I cut a known beginning off a string?",
    "What should be used instead of random to make passwords and tokens?",
    "Which module reads TOML files?",
]
for result in chain.batch(questions):
    print("Q:", result["question"])
    print("A:", result["answer"][:400].replace("\n", " "))
    print("  ", ", ".join(document.id for document in result["documents"]), "\n")

# %% [markdown]
# ## What reached the model
#
# The model that repeats its prompt shows that every passage reached it.

# %%
result = chain.invoke(question)
if generate is None:
    assert all(document.page_content[:600] in result["answer"] for document in result["documents"])
assert any(document.metadata["pep"] == 465 for document in result["documents"])
index.close()
