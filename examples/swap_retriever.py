# %% [markdown]
# # Swapping out a dense retriever
#
# A dense retriever and FastLane answer the same labelled questions. Does the context that reaches the language model
# contain the answer? Both use the same encoder. The dense retriever pools the token vectors of a passage into one.
#
# There are two sets of questions: forty about the PEPs, made for this example, and SQuAD's development set where it is
# at hand (`FASTLANE_EXAMPLES_SQUAD=DIR`, in BEIR's layout with a field `answers`).

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import gzip
import json
from pathlib import Path

from fastlane_rag import FastLaneModel
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_fastlane import FastLaneRetriever

from common import pep_index, pep_passages, pep_questions

model = FastLaneModel.from_pretrained()

# %% [markdown]
# ## The dense retriever


# %%
class MeanPooled(Embeddings):
    """One vector a text, from the same encoder."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in model.encode_dense_documents(texts)]

    def embed_query(self, text: str) -> list[float]:
        return [float(number) for number in model.encode_dense_queries([text])[0]]


# %% [markdown]
# ## The question set: PEPs
#
# A question is answered at k if one of the first k passages is from the right PEP and contains the answer.

# %%
passages = pep_passages()
documents = [
    Document(id=passage.id, page_content=passage.text, metadata={"title": passage.title, **passage.metadata})
    for passage in passages
]
dense_store = InMemoryVectorStore.from_documents(documents, MeanPooled())
index = pep_index(model)

# The swap:
# retriever = dense_store.as_retriever(search_kwargs={"k": 5})
retriever = FastLaneRetriever(index=index, k=5)
dense = dense_store.as_retriever(search_kwargs={"k": 5})


# %%
def answered(found, question, k):
    """Whether one of the first k passages holds the answer."""
    return any(
        document.metadata.get("pep") in question.get("peps", [document.metadata.get("pep")])
        and any(answer.lower() in document.page_content.lower() for answer in question["answers"])
        for document in found[:k]
    )


def judge(retrievers, questions):
    """Print the share of answered questions; return what each retriever found."""
    texts = [question["question"] for question in questions]
    found = {name: retriever.batch(texts) for name, retriever in retrievers.items()}
    print(f"{'':12}" + "".join(f"{f'k = {k}':>9}" for k in (1, 3, 5)))
    for name, results in found.items():
        shares = [
            sum(answered(one, question, k) for one, question in zip(results, questions, strict=True)) / len(questions)
            for k in (1, 3, 5)
        ]
        print(f"{name:12}" + "".join(f"{share:9.1%}" for share in shares))
    return found


questions = pep_questions()
found = judge({"dense": dense, "FastLane": retriever}, questions)

# %% [markdown]
# ## What only one of the two finds


# %%
def differences(found, questions, k):
    """Questions that only one of the two answers at k."""
    for one, other in (("FastLane", "dense"), ("dense", "FastLane")):
        print(f"only {one}:")
        for i, question in enumerate(questions):
            if answered(found[one][i], question, k) and not answered(found[other][i], question, k):
                print("  ", question["question"])


differences(found, questions, k=3)

# %%
assert sum(answered(one, q, 5) for one, q in zip(found["FastLane"], questions, strict=True)) > len(questions) // 2

# %% [markdown]
# ## SQuAD
#
# The first 300 paragraphs, and at most 200 questions about them. A question is answered at k if the text of one of the
# first k paragraphs contains the answer.

# %%
folder = Path(os.environ.get("FASTLANE_EXAMPLES_SQUAD", "../../shared/data/squad_dev"))
if folder.is_dir():

    def records(name):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    paragraphs = records("corpus")[:300]
    known = {paragraph["_id"] for paragraph in paragraphs}
    lines = (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    judged = {line.split("\t")[0] for line in lines if line.split("\t")[1] in known}
    asked = [query for query in records("queries") if query["_id"] in judged]
    squad = [{"question": query["text"], "answers": query["answers"]} for query in asked[:: max(1, len(asked) // 200)]][
        :200
    ]
    texts = [paragraph["text"] for paragraph in paragraphs]
    squad_dense = InMemoryVectorStore.from_texts(texts, MeanPooled()).as_retriever(search_kwargs={"k": 5})
    print(len(texts), "paragraphs,", len(squad), "questions")
    judge({"dense": squad_dense, "FastLane": FastLaneRetriever.from_texts(texts, model=model, k=5)}, squad)
else:
    print("SQuAD is not here; set FASTLANE_EXAMPLES_SQUAD to its folder")
index.close()
