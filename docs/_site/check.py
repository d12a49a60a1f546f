"""Check that the built site loads nothing from elsewhere, and that its links and anchors lead somewhere.

python docs/_site/check.py build/site     # exit code 1, and what is wrong
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
NOT_LOADED = {"canonical", "prev", "next", "alternate"}


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors it has."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.drawn = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of one tag."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.drawn |= "mermaid" in given.get("class", "").split()
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        for one, name in LOADED:
            if tag == one and name in given and given.get("rel") not in NOT_LOADED:
                self.loaded.add(given[name])


def problems(site: Path) -> list[str]:
    """What is wrong in a built site, one line each; the links of 404.html, which start at the root, are left out."""
    pages = {file.resolve(): Page(file) for file in site.rglob("*.html")}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        found += [f"{name} loads {one}" for one in page.loaded if urlsplit(one).netloc]
        found += [f"{name} has a diagram that is drawn by a script from elsewhere"] * page.drawn
        for link in page.links | page.loaded if file.name != "404.html" else ():
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            there = (file.parent / unquote(address.path)).resolve() if address.path else file
            if there.is_dir():
                there = there / "index.html"
            if not there.exists():
                found.append(f"{name} links to {link}, which is not there")
            elif there in pages and address.fragment and unquote(address.fragment) not in pages[there].anchors:
                found.append(f"{name} links to {link}: no such anchor")
    return sorted(found)


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    sys.exit("\n".join(wrong) or None)
