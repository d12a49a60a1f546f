"""Timers put around functions from outside."""

import time

import pytest
from end_to_end import SEARCH_STAGES, stages_of, take_turns
from side_by_side.stages import counted, target


class Kitchen:
    def boil(self) -> str:
        time.sleep(0.02)
        return "tea"

    def serve(self) -> str:
        time.sleep(0.01)
        return self.boil()


def test_a_stage_inside_another_counts_for_itself_alone() -> None:
    kitchen = Kitchen()
    with counted([("boil", (Kitchen, "boil")), ("serve", (kitchen, "serve"))]) as counter:
        assert kitchen.serve() == "tea"
        taken = counter.take()
        assert counter.take() == {}
    assert 0.02 <= taken["boil"] < 0.2
    assert 0.01 <= taken["serve"] < 0.2
    assert not vars(kitchen)
    assert Kitchen.boil.__name__ == "boil"
    assert not hasattr(Kitchen.boil, "__wrapped__")
    kitchen.serve()
    assert counter.take() == {}, "nothing is counted any more"


def test_stages_and_the_rest_make_the_whole() -> None:
    kitchen = Kitchen()
    found = stages_of(lambda _: [kitchen.serve()], ["a", "b", "c"], [("boil", (Kitchen, "boil"))])
    assert list(found) == ["boil", "other"]
    assert found["boil"] >= 20
    assert 10 <= found["other"] < 100


def test_the_functions_that_are_timed_exist() -> None:
    for _, path in SEARCH_STAGES:
        owner, name = target(path)
        assert callable(getattr(owner, name))
    with pytest.raises(AttributeError, match="nothing"):
        target("fastlane_rag.search:nothing")


def test_methods_take_turns() -> None:
    asked: list[str] = []
    answers = {name: lambda text, name=name: asked.append(name + text) or [] for name in "ab"}
    seconds = take_turns(answers, ["1", "2"], 2)
    assert asked == ["a1", "b1", "b2", "a2"] * 2
    assert [len(repeat) for repeat in seconds["a"]] == [2, 2]
