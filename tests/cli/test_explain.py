"""`fastlane explain` shows what the model routes, and what that finds in passages."""

from pathlib import Path

from click.testing import CliRunner

from fastlane_rag import FastLaneIndex, FastLaneModel
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


def test_the_best_passages_are_explained_in_terminal_and_page(model: FastLaneModel, tmp_path: Path) -> None:
    texts = {
        "lines": "Limit all lines of code to 79 characters.",
        "<evil>": "<script>alert('code')</script> \x1b[2J",
        "walrus": "The walrus operator assigns inside an expression.",
    }
    with FastLaneIndex.create(tmp_path / "index", model=model) as index:
        index.add(list(texts.values()), ids=list(texts))
        hits = index.search(QUERY, k=2)
    command = ["explain", QUERY, "--index", str(tmp_path / "index"), "-k", "2"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert [hit.id for hit in hits] == ["lines", "<evil>"]
    assert texts["lines"] in result.stdout
    assert texts["walrus"] not in result.stdout
    assert f" 1. {hits[0].score:.3f}  lines" in result.stdout
    assert "\x1b" not in result.stdout
    (route,) = model.route([QUERY], 1)
    assert ranks(result.stdout.split("\n\n")[0])[0] == route.tokens[route.selected[0]]
    page = tmp_path / "page.html"
    result = CliRunner().invoke(main, [*command, "--html", str(page)])
    assert result.stdout == f"{page} explains the query and 2 passages\n"
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    assert html.count("<mark") >= 2
    assert "<script" not in html
    assert "<evil" not in html
    assert "&lt;evil&gt;" in html


def test_a_page_of_the_query_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["explain", "a <b> c", "--html", str(tmp_path / "page.html")])
    assert result.exit_code == 0
    assert "<title>a &lt;b&gt; c</title>" in (tmp_path / "page.html").read_text()
