# %% [markdown]
# # Long documents
#
# A text longer than the model's window is not cut: it is encoded in windows that overlap, each token once, and scored
# as one document. So a whole PEP can be one document, and its last paragraph is found. Here are whole PEPs, put
# together from the packaged passages, beside the same PEPs in passages.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import warnings

from fastlane_rag import FastLaneIndex, FastLaneModel
from langchain_core.documents import Document
from langchain_fastlane import FastLaneRetriever

from common import pep_passages

model = FastLaneModel.from_pretrained()
peps = {}
for passage in pep_passages():
    peps.setdefault(passage.metadata["pep"], []).append(passage)
longest = sorted(peps, key=lambda pep: -sum(len(one.text) for one in peps[pep]))[:12]
whole = {pep: "\n\n".join(one.text for one in peps[pep]) for pep in longest}
print(len(whole), "PEPs of", min(map(len, whole.values())), "to", max(map(len, whole.values())), "characters")
print("the model encodes", model.max_document_length, "tokens at once")

# %% [markdown]
# ## A whole PEP as one document

# %%
index = FastLaneIndex.create(model=model)
index.add(list(whole.values()), [f"pep-{pep}" for pep in whole], show_progress=False)
tokens = index.stats().tokens
print(len(index), "documents,", tokens, "token embeddings,", tokens // len(index), "a document")
assert tokens > len(index) * model.max_document_length

# %% [markdown]
# What stands at the end of a document is found as well as what stands at its beginning. Each question here is a
# sentence of the last passage of a PEP.

# %%
found = 0
for pep in longest:
    sentence = max(peps[pep][-1].text.split(". "), key=len)[:200]
    found += index.search(sentence, k=1)[0].id == f"pep-{pep}"
print(found, "of", len(longest), "found first by a sentence of their last passage")
assert found >= 10

# %% [markdown]
# `explain` says which words matched, wherever they are:

# %%
pep = longest[0]
sentence = max(peps[pep][-1].text.split(". "), key=len)[:200]
why = index.explain(sentence, f"pep-{pep}")
print("the best match begins at character", why.spans[0].start, "of", len(whole[pep]))
print(repr(why.spans[0].text))

# %% [markdown]
# ## A bound, which tells what it leaves out
#
# `max_document_tokens` bounds what is encoded of a document, and a warning counts what that leaves out.

# %%
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    with FastLaneIndex.create(model=model, max_document_tokens=512) as bounded:
        bounded.add(list(whole.values())[:8], show_progress=False)
        print(bounded.stats().tokens // len(bounded), "tokens a document")
print(told[-1].message)

# %% [markdown]
# ## Passages, or whole documents?
#
# A language model reads what is found, so passages are usually what it should get. A document of its own for each
# passage finds the place; a filter keeps the search within one PEP.

# %%
passages = [one for pep in longest[:8] for one in peps[pep]]
retriever = FastLaneRetriever.from_documents(
    [Document(id=one.id, page_content=one.text, metadata={"pep": one.metadata["pep"]}) for one in passages],
    model=model,
    k=2,
)
for document in retriever.invoke(sentence, filter={"pep": pep}):
    print(document.metadata["pep"], len(document.page_content), "characters:", repr(document.page_content[:60]))

# %% [markdown]
# Both together: whole documents say which PEP, and a second search among its passages which of them.

# %%
best = index.search(sentence, k=1)[0]
inside = retriever.invoke(sentence, k=1, filter={"pep": int(best.id.removeprefix("pep-"))})
print(best.id, "->", repr(inside[0].page_content[:80]))
assert inside[0].metadata["pep"] == pep
index.close()
