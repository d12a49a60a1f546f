"""A search option is added in one place and shows up everywhere."""

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from functools import partial
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError, UnknownOptionError
from fastlane_rag.index.options import IndexOptions
from fastlane_rag.search.fields import SearchFields
from fastlane_rag.search.options import SearchKeywords, SearchOptions
from fastlane_rag.search.policy import SearchPolicy

PROGRAM = """
import inspect
import json
from dataclasses import dataclass, field

from fastlane_rag.search import options


@dataclass(frozen=True, slots=True, kw_only=True)
class More(options.SearchOptions):
    shout: bool = field(default=False, metadata=options.about("Shout.", options.check_flag))


options.SearchOptions = More

from click.testing import CliRunner
from fastlane_rag import FastLaneIndex
from fastlane_rag.cli import main
from fastlane_rag.search import plan
from langchain_fastlane import FastLaneRetriever, FastLaneVectorStore
from llama_index.core.vector_stores import VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.retrievers.fastlane import FastLaneRetriever as Retriever
from llama_index.retrievers.fastlane import FastLaneVectorStore as Store

seen, answer = {}, plan.answer
place = ""


def watching(view, state, queries, told, texts=None, **rest):
    seen[place] = told.shout
    return answer(view, state, queries, told, texts, **rest)


plan.answer = watching
index = FastLaneIndex.create(PATH)
index.add(["Cats purr.", "Dogs bark."], ["cat", "dog"])
store = FastLaneVectorStore(index)
calls = {
    "search": lambda: index.search("cat", shout=True),
    "search_batch": lambda: index.search_batch(["cat"], shout=True),
    "search_detailed": lambda: index.search_detailed("cat", shout=True),
    "langchain field": lambda: FastLaneRetriever(index=index, shout=True).invoke("cat"),
    "langchain call": lambda: FastLaneRetriever(index=index).invoke("cat", shout=True),
    "langchain batch": lambda: FastLaneRetriever(index=index).batch(["cat"], shout=True),
    "langchain store": lambda: store.similarity_search("cat", shout=True),
    "langchain scores": lambda: store.similarity_search_with_score("cat", shout=True),
    "langchain relevance": lambda: store.similarity_search_with_relevance_scores("cat", shout=True),
    "langchain mmr": lambda: store.max_marginal_relevance_search("cat", shout=True),
    "llama_index": lambda: Retriever(index, shout=True).retrieve("cat"),
    "llama_index store": lambda: Store(index).query(VectorStoreQuery(query_str="cat", similarity_top_k=1), shout=True),
    "llama_index mmr": lambda: Store(index).query(
        VectorStoreQuery(query_str="cat", similarity_top_k=1, mode=VectorStoreQueryMode.MMR), shout=True
    ),
}
for place, call in calls.items():
    call()
retriever = Retriever(index)
retriever.shout = True
place = "llama_index attribute"
retriever.retrieve("cat")
index.close()
place = "command line"
result = CliRunner().invoke(main, ["search", PATH, "cat", "--shout"], catch_exceptions=False)
assert result.exit_code == 0, result.output
print("SEEN", json.dumps(seen))
"""


def test_a_made_up_option_reaches_every_search(tmp_path):
    program = PROGRAM.replace("PATH", repr(str(tmp_path / "index")))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.rsplit("SEEN", 1)[1])
    assert len(seen) == 15
    assert set(seen.values()) == {True}, seen


def test_the_views_of_type_checkers_are_the_options():
    """`SearchKeywords` and `SearchFields` say again, for type checkers, what `SearchOptions` says."""
    options = {name: hint for name, hint in get_type_hints(SearchOptions).items() if name != "k"}
    assert get_type_hints(SearchKeywords) == options
    assert list(SearchFields.model_fields) == list(options)
    static = static_fields()
    assert static == [(one.name, one.default) for one in fields(SearchOptions) if one.name != "k"]


def static_fields():
    """Names and defaults of the class that type checkers see, from its source."""
    import ast
    import inspect

    from fastlane_rag.search import fields as module

    tree = ast.parse(inspect.getsource(module))
    [view] = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "SearchFields"]
    return [(node.target.id, ast.literal_eval(node.value)) for node in view.body if isinstance(node, ast.AnnAssign)]


def test_every_option_is_documented_and_checked():
    for one in fields(SearchOptions):
        assert f"    {one.name}: " in inspect.getdoc(SearchOptions), one.name
        assert one.metadata["help"].endswith(".")
        assert one.metadata["check"](one.default, one.name) == one.default


WRONG = [
    {"k": -1},
    {"k": 1.5},
    {"route_k": 0},
    {"route_k": True},
    {"route_k": "most"},
    {"refine": "yes"},
    {"hybrid": 2},
    {"hybrid": -0.1},
    {"hybrid": "yes"},
    {"fusion": "sum"},
    {"score_threshold": 1.5},
    {"score_threshold": True},
    {"lane": 3},
    {"lane": "fast"},
    {"nprobe": 0},
    {"depth": 2.5},
    {"policy": 3},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_value_is_named_wherever_it_is_given(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(InvalidInputError, match=f"{name} must be .*{value!r}"):
        SearchOptions.of(**wrong)
    with FastLaneIndex.create() as index, pytest.raises(InvalidInputError, match=name):
        index.search("query", **wrong)
    if name != "k":
        with pytest.raises(ValueError, match=name):
            TypeAdapter(SearchFields).validate_python(wrong)


def test_a_misspelt_option_is_refused_with_the_nearest():
    with (
        FastLaneIndex.create() as index,
        pytest.raises(UnknownOptionError, match=r"'rout_k' is .*; did you mean 'route_k'"),
    ):
        index.search("query", rout_k=3)
    with pytest.raises(TypeError):
        SearchOptions.of(nothing_like_it=3)


@pytest.mark.parametrize(
    "wrong", [{"route_k": 0}, {"route_k": "most"}, {"rescore_share": 0}, {"nprobe": 1.5}, {"words_weight": -1}], ids=str
)
def test_a_policy_is_checked(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(InvalidInputError, match=f"{name} of a SearchPolicy .*{value!r}"):
        SearchPolicy(**wrong)


def test_an_explanation_follows_the_policy_of_its_search():
    with FastLaneIndex.create() as index:
        index.add(["Cats purr when they are content."])
        [hit] = index.search("why does a content cat purr?", policy=SearchPolicy(route_k=1))
        assert sum(match.routed for match in hit.explain().tokens) == 1


def test_numbers_of_numpy_are_numbers():
    np = pytest.importorskip("numpy")
    assert SearchOptions.of(k=np.int64(3), route_k=np.int32(4), nprobe=np.uint8(5)) == SearchOptions(
        k=3, route_k=4, nprobe=5
    )
    policy = SearchPolicy(route_k=np.int64(4), words_weight=np.float32(0.5), refine_least=np.uint8(9))
    assert policy == SearchPolicy(route_k=4, words_weight=0.5, refine_least=9)
    assert {type(policy.route_k), type(policy.words_weight)} == {int, float}
    assert TypeAdapter(SearchFields).validate_python({"route_k": np.int64(4)}).route_k == 4
    assert (IndexOptions(timeout=np.int64(3)).timeout, IndexOptions(timeout=np.float32(0.5)).timeout) == (3, 0.5)
    assert IndexOptions(timeout=10**400).timeout < 1e10
    with pytest.raises(InvalidInputError, match="refine must be True or False"):
        SearchOptions(refine=np.array([True, False]))


@pytest.mark.parametrize("policy", [{}, 1, "fast"])
def test_a_policy_that_is_none_is_refused_where_it_is_given(tmp_path, policy):
    FastLaneIndex.create(tmp_path / "index", dim=4).close()
    for call in (FastLaneIndex.create, partial(FastLaneIndex.open, tmp_path / "index")):
        with pytest.raises(InvalidInputError, match="policy must be a SearchPolicy or None"):
            call(policy=policy)
