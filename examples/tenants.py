# %% [markdown]
# # Tenants: one index, and filters that hold
#
# Several customers, or teams, share one index, and each must see its own documents only. A filter decides before
# anything is ranked, so a search gives its `k` documents however few of all are the tenant's.
#
# Here a tenant is a kind of PEP: the packaged sample, by the hundred of its number.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from collections import Counter

from fastlane_rag import FastLaneIndex, FastLaneModel
from langchain_fastlane import FastLaneVectorStore
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.retrievers.fastlane import FastLaneRetriever

from common import pep_passages

# %% [markdown]
# ## An index that knows its tenants
#
# Filters work on every key. On those in `filter_keys` they are fast in large collections.

# %%
model = FastLaneModel.from_pretrained()
index = FastLaneIndex.create(model=model, filter_keys=["tenant"])
passages = pep_passages()[::9]
tenants = [f"team-{passage.metadata['pep'] // 100}" for passage in passages]
index.add(
    [passage.text for passage in passages],
    [passage.id for passage in passages],
    [{"tenant": tenant, "title": passage.title} for tenant, passage in zip(tenants, passages, strict=True)],
    show_progress=False,
)
Counter(tenants).most_common(6)

# %% [markdown]
# ## Each sees its own

# %%
question = "How are type hints for generics written?"
for tenant in ("team-4", "team-5", "team-6"):
    hits = index.search(question, k=3, filter={"tenant": tenant})
    assert len(hits) == 3
    assert {hit.metadata["tenant"] for hit in hits} == {tenant}
    print(tenant, [hit.metadata["title"][:40] for hit in hits])

# %% [markdown]
# A tenant with few documents gets all of them, and one without any gets nothing: never those of another. Where a filter
# matches nothing, a warning says why, if the keys or types tell.

# %%
rarest, count = Counter(tenants).most_common()[-1]
print(rarest, "has", count, "and gets", len(index.search(question, k=50, filter={"tenant": rarest})))
print("nobody gets", len(index.search(question, filter={"tenant": "team-none"})))

# %% [markdown]
# ## A retriever for each tenant
#
# A retriever is cheap: it holds the index and a filter. Make one for a request, and the filter cannot be forgotten.

# %%
store = FastLaneVectorStore(index)


def retriever_of(tenant):
    """What a request of a tenant searches with."""
    return store.as_retriever(search_kwargs={"k": 2, "filter": {"tenant": tenant}})


for document in retriever_of("team-6").invoke(question):
    print(document.metadata)

# %% [markdown]
# In LlamaIndex:

# %%
filters = MetadataFilters(filters=[MetadataFilter(key="tenant", value="team-5")])
for found in FastLaneRetriever(index=index, similarity_top_k=2, filters=filters).retrieve(question):
    assert found.node.metadata["tenant"] == "team-5"
    print(found.node.metadata["title"])

# %% [markdown]
# ## Several groups a document
#
# A document that several groups may read has a list, and a filter that names one of them matches an element of it.

# %%
index.update_metadata(
    [passages[0].id], [{"tenant": "team-0", "groups": ["staff", "auditors"], "title": passages[0].title}]
)
print([hit.metadata["groups"] for hit in index.search(question, filter={"groups": "auditors"})])
print([hit.id for hit in index.search(question, filter={"groups": {"$in": ["guests"]}})])

# %% [markdown]
# ## A tenant leaves

# %%
gone = index.delete(filter={"tenant": "team-4"})
assert index.search(question, filter={"tenant": "team-4"}) == []
index.compact()  # also off the disk
print(gone, "documents deleted,", len(index), "left,", index.stats().dead, "dead rows")

# %% [markdown]
# One index for all tenants shares one codec, trained on all of them. Where the law asks for files of their own, make an
# index a tenant: an open index takes little memory, and the model is shared by all indexes of a process.

# %%
index.close()
