"""Draw the pictures of the documentation from what `explain` says of real queries: docs/images/*.svg.

python docs/_site/pictures.py

The passages are those of the packaged sample, the model is the bundled one. A picture has a white ground of its own, so
that it reads alike on a light page, on a dark one and on paper.
"""

import textwrap
from html import escape
from pathlib import Path

from fastlane_rag import FastLaneModel
from fastlane_rag.data import read_passages, sample_path
from fastlane_rag.explain import Explanation, explain

IMAGES = Path(__file__).parents[1] / "images"
QUERY, PASSAGE = "Which PEP introduced the walrus operator?", "pep572-1-0"
OTHER, MERGE = "how do I merge two dictionaries?", "pep584-4-0"
INK, FAINT, ROUTED, PLAIN, MARK = "#1b2733", "#5c6b7a", "#00796b", "#a9bcc9", "#ffe08a"
WIDTH = 760


def main() -> None:
    """Write the pictures."""
    for name, picture in pictures().items():
        (IMAGES / name).write_text(picture, encoding="utf-8")


def pictures() -> dict[str, str]:
    """The pictures by the names of their files."""
    model = FastLaneModel.from_pretrained()
    texts = {passage.id: passage.content for passage in read_passages(sample_path())}
    routes = [explain(model, OTHER, texts[MERGE], route_k=k) for k in (1, 2, 4, 16)]
    return {
        "late-interaction.svg": scored(explain(model, QUERY, texts[PASSAGE], route_k=4), PASSAGE),
        "routing.svg": routed(routes, (1, 2, 4, 16)),
    }


def scored(found: Explanation, name: str) -> str:
    """One row a query token: what it matched, how well, its weight and what it adds; below, the passage."""
    heads = (
        (20, "query token"),
        (150, "best match in the passage"),
        (345, "similarity"),
        (560, "weight"),
        (640, "adds"),
    )
    parts = [text(20, 28, f"“{found.query}”", size=17, weight=600)]
    parts += [text(x, 58, words, size=12, fill=FAINT) for x, words in heads]
    for row, match in enumerate(found.tokens):
        y = 80 + 24 * row
        colour = ROUTED if match.routed else PLAIN
        parts += [
            pill(20, y, match.token, colour, lit=match.routed),
            text(150, y, match.matched, weight=600 if match.routed else 400),
            bar(345, y, 150 * max(match.similarity, 0), colour),
            text(505, y, f"{match.similarity:.2f}", fill=FAINT),
            text(560, y, f"\u00d7 {match.weight:.2f}"),
            text(640, y, f"= {match.contribution:.2f}"),
        ]
    y = 80 + 24 * len(found.tokens)
    parts += [
        line(560, y - 14, 700),
        text(560, y + 6, "score", weight=600),
        text(640, y + 6, f"= {found.score:.2f}", weight=600),
        pill(20, y + 6, "green", ROUTED, lit=True),
        text(85, y + 6, "routed: gathered the passage. All tokens score it.", size=13, fill=FAINT),
    ]
    words, bottom = passage(found, name, y + 44)
    return drawing([*parts, *words], bottom, f"The score of a passage for the query {found.query}")


def routed(found: list[Explanation], budgets: tuple[int, ...]) -> str:
    """Which tokens gather with each number of routed tokens, and the weight of each where all of them score."""
    tokens = found[0].tokens
    step = (WIDTH - 170) / len(tokens)
    parts = [text(20, 28, f"“{found[0].query}”", size=17, weight=600)]
    for row, (one, k) in enumerate(zip(found, budgets, strict=True)):
        y = 62 + 32 * row
        parts.append(text(20, y, f"route_k={k}", fill=FAINT))
        for column, match in enumerate(one.tokens):
            x = 150 + step * column
            parts.append(pill(x, y, match.token, ROUTED if match.routed else PLAIN, lit=match.routed, width=step - 6))
    base = 62 + 32 * len(budgets) + 78
    parts.append(text(20, base - 30, "weight where all", fill=FAINT))
    parts.append(text(20, base - 12, "tokens score", fill=FAINT))
    for column, match in enumerate(tokens):
        x, height = 150 + step * column, 45 * match.weight
        parts.append(
            f'<rect x="{x + 8:.0f}" y="{base - height:.0f}" width="{step - 22:.0f}" height="{height:.0f}" '
            f'rx="3" fill="{PLAIN}"/>'
        )
        parts.append(text(x + (step - 6) / 2, base + 18, f"{match.weight:.2f}", size=13, anchor="middle"))
    return drawing(parts, base + 36, f"Routed tokens and weights of the query {found[0].query}")


def passage(found: Explanation, name: str, top: float) -> tuple[list[str], float]:
    """The lines of the passage around the evidence, its best spans marked."""
    best = list(found.spans[:1])
    best += [span for span in found.spans[1:] if len(span.text) > 2]
    first = min(span.start for span in best)
    start = found.text.rfind(". ", 0, max(first - 1, 0)) + 2 if ". " in found.text[:first] else 0
    shown = found.text[start : start + 260].rsplit(" ", 1)[0]
    parts, y, at = [text(20, top, f"{name}, from here", size=12, fill=FAINT)], top + 24, start
    for row in textwrap.wrap(shown, 88):
        begin = found.text.index(row.split(" ", 1)[0], at)
        pieces, here = [], begin
        for span in sorted(best, key=lambda one: one.start):
            low, high = max(span.start, begin), min(span.end, begin + len(row))
            if low < high:
                pieces += [
                    escape(found.text[here:low]),
                    f'<tspan font-weight="700" fill="{ROUTED}" '
                    f'text-decoration="underline">{escape(found.text[low:high])}</tspan>',
                ]
                here = high
        pieces.append(escape(found.text[here : begin + len(row)]))
        parts.append(
            f'<text x="20" y="{y:.0f}" font-size="14" fill="{INK}" xml:space="preserve">{"".join(pieces)}</text>'
        )
        y, at = y + 21, begin + len(row)
    return parts, y


def text(
    x: float, y: float, words: str, *, size: int = 14, fill: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    """A line of text whose middle is at y."""
    return (
        f'<text x="{x:.0f}" y="{y + size * 0.35:.0f}" font-size="{size}" fill="{fill}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def pill(x: float, y: float, words: str, colour: str, *, lit: bool, width: float | None = None) -> str:
    """A token in a rounded box: filled where it is routed."""
    wide = width or 14 + 8 * len(words)
    ground, ink = (colour, "#ffffff") if lit else ("#eef2f5", INK)
    box = f'<rect x="{x:.0f}" y="{y - 10:.0f}" width="{wide:.0f}" height="20" rx="6" fill="{ground}"/>'
    size = 13 if width is None or 9 * len(words) < wide else 11
    return box + text(x + wide / 2, y, words, size=size, fill=ink, anchor="middle", weight=600 if lit else 400)


def bar(x: float, y: float, length: float, colour: str) -> str:
    """A horizontal bar."""
    return f'<rect x="{x:.0f}" y="{y - 7:.0f}" width="{length:.0f}" height="14" rx="3" fill="{colour}"/>'


def line(x: float, y: float, end: float) -> str:
    """A thin rule."""
    return f'<path d="M{x:.0f} {y:.0f}H{end:.0f}" stroke="{FAINT}"/>'


def drawing(parts: list[str], height: float, title: str) -> str:
    """The SVG file."""
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="system-ui, sans-serif" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
