"""Pages of the site that are files of the repository, and links from one page to another.

mkdocs calls the functions named `on_`. A page stands once: README.md, ARCHITECTURE.md and the like stay where
readers of the repository look for them, and the site shows them under a name of its own.
"""

import os.path
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PUBLISHED = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "design.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "STORE_FORMAT.md": "format.md",
    "examples/README.md": "examples.md",
    "fastlane_rag/model/default/README.md": "model-card.md",
    "integrations/langchain/README.md": "langchain.md",
    "integrations/llama_index/README.md": "llama-index.md",
}
"""Files of the repository and the pages that show them."""

_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`(?!\]\())", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]\[]*(?:\[[^\]]*\][^\]\[]*)*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FILE = re.compile(r"[\w/.-]+\.md")
"""Words of a link that are the name of a file: on the site they are the title of the page."""

_ELSEWHERE = re.compile(r"<script src=\"?https://unpkg\.com/iframe-worker/shim\"?></script>")
_YAML = re.compile(r"\A---\n.*?\n---\n", flags=re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of `PUBLISHED`."""
    for source, page in PUBLISHED.items():
        text = _YAML.sub("", (ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links of the repository to pages of the site; a file that is no page is named without a link."""
    uri = page.file.src_uri
    source = next((one for one, shown in PUBLISHED.items() if shown == uri), f"docs/{uri}")
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else _led(part, source, uri) for i, part in enumerate(parts))


def on_post_page(output: str, **_: Any) -> str:
    """Take out the script that the offline search asks another site for. Search works in a folder without it."""
    return _ELSEWHERE.sub("", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for 404.html, which is no page."""
    return _ELSEWHERE.sub("", output_content)


def _led(text: str, source: str, uri: str) -> str:
    def lead(found: re.Match[str]) -> str:
        image, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = os.path.normpath(PurePosixPath(source).parent / target)
        shown = PUBLISHED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if shown is None:
            return words
        if _FILE.fullmatch(words):
            words = _title(ROOT / path)
        return f"{image}[{words}]({os.path.relpath(shown, PurePosixPath(uri).parent)}{anchor})"

    return _LINK.sub(lead, text)


def _title(file: Path) -> str:
    return re.search(r"^# (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
