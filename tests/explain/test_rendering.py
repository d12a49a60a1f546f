"""Routes and explanations in notebooks and terminals, with texts escaped."""

import io
from html import escape
from html.parser import HTMLParser

import pytest
from rich.console import Console

from fastlane_rag import FastLaneModel
from fastlane_rag.explain import Explanation, explain

MALICIOUS = (
    "<script>alert(1)</script> \"><img src=x onerror=alert(2)> <b onmouseover='x'>code</b> &lt;b&gt; "
    "</mark></p></div><style>*{display:none}</style> [bold]markup[/bold] [/] line \x1b[31mred\x1b]0;title\x07 \x9b2J"
)
QUERY = "<b>code</b> line & [red]script[/red] \x1b[2J"
ALLOWED = {
    "div", "span", "b", "p", "mark", "details", "summary", "table", "tr", "th", "td",
    "html", "head", "meta", "title", "body", "h1", "h2",
}  # fmt: skip


class Strict(HTMLParser):
    """Collects the text, and fails on any element or attribute that is not ours, and on bad nesting."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.open: list[str] = []
        self.marked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert {name for name, _ in attrs} <= {"style", "title", "lang", "charset"}
        for name, value in attrs:
            if name == "title":
                assert value is not None
                assert value.endswith("%")
        if tag == "mark":
            self.marked.append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "mark":
            self.marked[-1] += data


def parsed(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def printed(shown: object, *, colours: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=colours, color_system="standard" if colours else None).print(shown)
    return out.getvalue()


@pytest.fixture(scope="module")
def explanation(model: FastLaneModel) -> Explanation:
    return explain(model, QUERY, MALICIOUS)


def test_html_shows_texts_as_they_are_and_runs_nothing(explanation: Explanation) -> None:
    shown = parsed(explanation._repr_html_())
    assert MALICIOUS in shown.text
    assert sorted(shown.marked) == sorted(span.text for span in explanation.spans)
    assert len(shown.marked) >= 2
    for match in explanation.tokens:
        assert f"{match.similarity:.3f}" in shown.text


def test_a_route_in_html(model: FastLaneModel) -> None:
    (route,) = model.route([QUERY], 2)
    html = route._repr_html_()
    assert parsed(html).text.split() == route.tokens
    assert html.count("<b>") == 2
    for position in route.selected:
        assert f"<b>{escape(route.tokens[position])}</b>" in html


def test_no_control_character_reaches_a_terminal(model: FastLaneModel, explanation: Explanation) -> None:
    for shown in (explanation, model.route([QUERY], 2)[0]):
        text = printed(shown)
        assert not [c for c in text if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]
    text = printed(explanation)
    assert "[bold]markup[/bold] [/]" in text
    assert "�[31mred�]0;title�" in text


def test_the_terminal_marks_the_evidence(model: FastLaneModel) -> None:
    explanation = explain(model, "walrus", "The walrus is an operator.", route_k=1)
    assert "\x1b[1;30;43mwalrus\x1b[0m" in printed(explanation, colours=True)
    plain = printed(explanation)
    assert "The walrus is an operator." in plain
    rows = [line.split() for line in plain.splitlines()]
    for match in explanation.tokens:
        share = f"{match.share:.1%}" if match.query_span else "-"
        assert [match.token, share, f"{match.weight:.2f}", f"{match.similarity:.3f}", match.matched] in rows
        assert match.matched == "walrus" or not match.query_span


def test_long_texts_are_shown_around_their_evidence(model: FastLaneModel) -> None:
    text = "Nothing of interest. " * 30 + "Here is the walrus operator. " + "More of the same, and on it goes. " * 60
    plain = printed(explain(model, "walrus operator", text))
    assert "walrus operator" in plain
    assert plain.startswith("... ")
    assert len(plain) < 1000
    assert printed(Explanation("", text, ())).startswith("Nothing of interest.")


def test_a_route_in_a_terminal(model: FastLaneModel) -> None:
    (route,) = model.route(["how long may a line of code be?"], 2)
    lines = printed(route).splitlines()
    assert len(lines) == len(route.tokens) + 1
    ranks = {line.split()[0]: line.split()[1] for line in lines[1:] if line[0].isdigit()}
    assert ranks == {"1": route.tokens[route.selected[0]], "2": route.tokens[route.selected[1]]}
