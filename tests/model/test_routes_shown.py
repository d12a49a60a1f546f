"""A route shows itself: of one string or of many, with expansion masks counted, and with a word where no router is."""

import io

import pytest
from rich.console import Console

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import InvalidInputError


def printed(shown) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()


def test_the_route_of_one_string_shows_itself(model):
    routes = model.route("how do I merge two dictionaries?", k=2)
    assert len(routes) == 1
    assert "##aries" in printed(routes)
    assert "##aries" in routes._repr_html_()
    assert "no router" not in printed(routes) + routes._repr_html_()


def test_routes_of_one_query_are_equal(model):
    assert model.route("how are wheels built") == model.route("how are wheels built") != model.route("wheels")


def test_the_routes_of_several_queries_follow_each_other(model):
    text = printed(model.route(["cats run", "dogs walk"]))
    assert text.index("cats") < text.index("dogs")


def test_a_model_without_a_router_says_so_and_counts_its_masks(checkpoints):
    routes = FastLaneModel.from_pretrained(checkpoints["stanford"]).route("what is the capital of france")
    for shown in (printed(routes), routes._repr_html_()):
        assert "no router" in shown
        assert "fastlane train-router" in shown
    masks = routes[0].tokens.count("[MASK]")
    assert masks > 2
    assert f"[MASK] x {masks}" in printed(routes)


def test_one_string_in_place_of_a_list_is_refused_with_what_to_write(model):
    for encode in (model.encode_routed, model.encode_queries, model.encode_documents):
        with pytest.raises(InvalidInputError, match=r"not str 'cats purr'; put a single value into"):
            encode("cats purr")
