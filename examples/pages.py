# %% [markdown]
# # Pages of a PDF as images
#
# A document may be an image where the model takes images: ColPali and its like, through sentence-transformers. The
# pages of a PDF are rendered and indexed as they look, and a map says where on the page a query's tokens matched.
#
# **The model here is tiny and random.** No trained checkpoint comes with this package, and there is no network. Its
# answers mean nothing: what it finds and where its maps are warm is chance. The notebook shows the mechanics; put the
# folder or name of a ColPali checkpoint in its place.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import tempfile
from pathlib import Path

import pypdfium2
from fastlane_rag import FastLaneIndex, FastLaneModel
from langchain_fastlane import FastLaneRetriever
from llama_index.retrievers.fastlane import FastLaneRetriever as LlamaIndexRetriever
from reportlab.lib.pagesizes import A5
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

from common import pep_passages
from page_model import random_page_model

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A PDF, and its pages
#
# The text is that of PEP 572 and its neighbours, from the packaged sample (PEPs are in the public domain). Any other
# PDF does as well.

# %%
styles = getSampleStyleSheet()
passages = [passage for passage in pep_passages() if passage.metadata["pep"] == 572]
story = []
for passage in passages[:12]:
    text = passage.text.replace("&", "&amp;").replace("<", "&lt;")
    story += [Paragraph(passage.title, styles["Heading3"]), Paragraph(text, styles["BodyText"]), Spacer(1, 8)]
SimpleDocTemplate(str(folder / "pep-572.pdf"), pagesize=A5).build(story)

pages, texts = [], []
with pypdfium2.PdfDocument(folder / "pep-572.pdf") as pdf:
    for number, page in enumerate(pdf, 1):
        pages.append(folder / f"page-{number}.png")
        page.render(scale=1).to_pil().save(pages[-1])
        texts.append(page.get_textpage().get_text_bounded())
print(len(pages), "pages")

# %% [markdown]
# ## A model that takes images
#
# `random_page_model` writes a checkpoint with the architecture of ColPali: a vision tower, a language model and a
# projection, all tiny, and random. It cuts a page into 16 times 16 patches; ColPali has 32 times 32.

# %%
words = " ".join(word for text in texts for word in text.split())
model = FastLaneModel.from_pretrained(random_page_model(folder / "model", words, side=16), backend="torch")
model.takes_images

# %% [markdown]
# ## Index and search
#
# An image is kept by its path, in the metadata of its document. What the page says may stand beside it: the model does
# not see it, but searches by words do, and a language model can read it.

# %%
index = FastLaneIndex.create(model=model)
index.add_images(
    pages,
    [f"pep-572, page {number}" for number in range(1, len(pages) + 1)],
    [{"pep": 572, "page": number} for number in range(1, len(pages) + 1)],
    texts=texts,
)
question = "Which operator assigns within an expression?"
hits = index.search(question, k=3)
for hit in hits:
    print(f"{hit.score:6.2f}  {hit.id}  {Path(hit.metadata['fastlane_image']).name}")
assert len(hits) == 3

# %% [markdown]
# The order is chance: the weights are random. Search by words reads the texts beside the images, and is not:

# %%
for hit in index.search(question, k=2, lane="words"):
    print(f"{hit.score:6.2f}  {hit.id}")

# %% [markdown]
# ## Where on the page
#
# With a trained model, warm places are those whose patches are like the query's tokens. Here they show nothing but
# that each token has a similarity to each patch.

# %%
why = hits[0].explain()
print(why.grid, "rows and columns;", [match.matched for match in why.tokens if match.routed][:3])
why

# %% [markdown]
# The map of one token, as a file:

# %%
position = next(i for i, match in enumerate(why.tokens) if match.routed)
why.heat_map(position).save(folder / "why.png")
print(why.tokens[position].token, why.tokens[position].patch, why.similarities.shape)

# %% [markdown]
# ## Both frameworks
#
# A document carries the path of its image, and filters work as ever.

# %%
retriever = FastLaneRetriever(index=index, k=2, filter={"page": {"$lte": 3}})
for document in retriever.invoke(question):
    print(document.metadata["page"], Path(document.metadata["fastlane_image"]).name, repr(document.page_content[:40]))

# %%
for found in LlamaIndexRetriever(index=index, similarity_top_k=2).retrieve(question):
    print(found.node.metadata["page"], Path(found.node.metadata["fastlane_image"]).name)

# %% [markdown]
# ## A model of texts refuses images

# %%
try:
    FastLaneIndex.create().add_images(pages[:1])
except ValueError as error:
    print(error)
else:
    raise AssertionError("the bundled model takes texts alone")
index.close()
