# %% [markdown]
# # Questions about the PEPs, in LangChain
#
# A retrieval chain over about 2,000 passages of Python Enhancement Proposals. Everything runs without a network: the
# passages and FastLane's model come with the package. The language model is one that repeats its prompt, so you see
# exactly what retrieval gave it; `FASTLANE_EXAMPLES_LLM=smollm2` puts a real small one there (the outputs kept
# here are SmolLM2's, 135 million parameters: small enough to be wrong with the right passage before it).

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
# `FastLaneRetriever.from_texts(texts)` would index in memory. Here the index is kept on disk and opened again.

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
# Everything about the search can be changed for one call: how many, which documents, how many query tokens gather.

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
# With the repeating model the answer IS the prompt, so this shows that every passage arrived.

# %%
result = chain.invoke(question)
if generate is None:
    assert all(document.page_content[:600] in result["answer"] for document in result["documents"])
assert any(document.metadata["pep"] == 465 for document in result["documents"])
index.close()
