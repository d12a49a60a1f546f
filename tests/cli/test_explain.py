"""`fastlane explain` shows what the model routes."""

from click.testing import CliRunner

from fastlane_rag import FastLaneModel
from fastlane_rag.cli import main

QUERY = "how long may a line of code be?"


def ranks(output: str) -> list[str]:
    """The ranked tokens, best first."""
    rows = [line.split() for line in output.splitlines()[1:]]
    return [row[1] for row in sorted((row for row in rows if row[0].isdigit()), key=lambda row: int(row[0]))]


def test_the_routed_tokens_are_ranked_and_marked(model: FastLaneModel) -> None:
    (route,) = model.route([QUERY], 3)
    result = CliRunner().invoke(main, ["explain", QUERY, "--route-k", "3"])
    assert result.exit_code == 0, result.output
    assert ranks(result.stdout) == [route.tokens[i] for i in route.selected]
    assert len(result.stdout.splitlines()) == len(route.tokens) + 1


def test_all_tokens_that_may_be_routed(model: FastLaneModel) -> None:
    (route,) = model.route([QUERY], None)
    result = CliRunner().invoke(main, ["explain", QUERY, "--route-k", "all"])
    assert ranks(result.stdout) == [route.tokens[i] for i in route.selected]


def test_an_empty_query_has_tokens_too() -> None:
    result = CliRunner().invoke(main, ["explain", ""])
    assert result.exit_code == 0
    assert len(ranks(result.stdout)) >= 1
