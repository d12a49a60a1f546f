# %% [markdown]
# # Seeing the router
#
# Before a search, the router scores the tokens of the query and picks the few that gather candidates. This notebook
# shows its scores for several queries. Then it measures what more or fewer routed tokens cost, and what they find.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import html
import time

import numpy as np
from fastlane_rag import FastLaneModel

from common import pep_index, pep_questions

model = FastLaneModel.from_pretrained()
index = pep_index(model)

# %% [markdown]
# ## Heat maps
#
# The darker a token, the larger its share of the router's attention. Routed tokens have a border. [CLS] and [SEP] are
# never routed. They count in the refinement alone.


# %%
class HeatMaps:
    """Queries' tokens, coloured by the router."""

    def __init__(self, queries, k):
        self.routes = model.route(queries, k)

    def __repr__(self):
        return f"heat maps of {len(self.routes)} queries"

    def _repr_html_(self):
        return "".join(f"<div style='line-height:2'>{self.row(route)}</div>" for route in self.routes)

    def row(self, route):
        shares = np.exp(route.scores - route.scores.max())
        cells = []
        for position, (token, share) in enumerate(zip(route.tokens, shares, strict=True)):
            border = "#b03" if position in route.selected else "transparent"
            style = f"background:rgba(255,140,0,{share:.2f});border:2px solid {border};padding:1px 4px;margin:1px"
            cells.append(f'<span style="{style}" title="{share / shares.sum():.1%}">{html.escape(token)}</span>')
        return "".join(cells)


queries = [
    "Which symbol was chosen for multiplying matrices?",
    "How do I cut a known beginning off a string?",
    "What happens to a system call that a signal interrupts?",
    "Why was the hash function of strings replaced?",
    "enumeration",
]
HeatMaps(queries, k=3)

# %%
for query in queries:
    (route,) = model.route([query], 3)
    print(f"{[route.tokens[position] for position in route.selected]!s:40} {query}")

# %% [markdown]
# ## The number of routed tokens against quality and cost
#
# For the forty labelled questions: recall of the exact search's first ten, how many times a query token was compared
# with a document token, and the time without encoding. `refine=False` ranks by the routed tokens alone.

# %%
routed = model.encode_routed([question["question"] for question in pep_questions()])
exact = [{hit.id for hit in result.hits} for result in index.search_batch_detailed(routed, 10, route_k="all")]
print(f"{'route_k':8} {'refined':8} {'recall@10':>9} {'comparisons':>12} {'ms a query':>11}")
for refine in (False, True):
    for k in (1, 2, 4, 8, "auto", "all"):
        started = time.perf_counter()
        results = [index.search_batch_detailed([query], 10, route_k=k, refine=refine)[0] for query in routed]
        elapsed = 1000 * (time.perf_counter() - started) / len(routed)
        recalls = [len(wanted & {hit.id for hit in one.hits}) / 10 for wanted, one in zip(exact, results, strict=True)]
        comparisons = np.mean([result.comparisons for result in results])
        print(f"{k!s:8} {refine!s:8} {np.mean(recalls):9.3f} {comparisons:12,.0f} {elapsed:11.1f}")

# %%
assert all(len(wanted) == 10 for wanted in exact)
index.close()
