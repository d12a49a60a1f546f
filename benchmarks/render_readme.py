"""Write the figures of benchmarks/results/ between the markers in README.md and the pages in docs/.

python benchmarks/render_readme.py           # rewrite the tables
python benchmarks/render_readme.py --check   # exit code 1 when a document differs from the results
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from tables import TABLES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/cluster.md", "docs/figures.md", "docs/tuning.md", "docs/peers.md")
BLOCK = re.compile(r"<!-- figures:(\S+) -->\n.*?<!-- /figures:\1 -->", flags=re.DOTALL)


def render(text: str, results: Path = RESULTS) -> str:
    """A document with every marked block replaced by its table.

    Raises:
        ValueError: no table has the name of a block.
    """

    def replace(block: re.Match[str]) -> str:
        name = block[1]
        if name not in TABLES:
            raise ValueError(f"a block is named {name!r}, there is no such table: {', '.join(TABLES)}")
        return f"<!-- figures:{name} -->\n{TABLES[name](results)}\n<!-- /figures:{name} -->"

    return BLOCK.sub(replace, text)


def check_places(texts: list[str]) -> None:
    """Check that every table has one block in the documents.

    Raises:
        ValueError: a table has no block, or several.
    """
    found = Counter(block[1] for text in texts for block in BLOCK.finditer(text))
    wrong = [f"{name} ({found[name]})" for name in TABLES if found[name] != 1]
    if wrong:
        raise ValueError(f"each table has one block in {', '.join(DOCUMENTS)}, but not: {', '.join(wrong)}")


def main() -> None:
    """Rewrite or check the documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    check_places([(ROOT / name).read_text() for name in DOCUMENTS])
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        rendered = render(before)
        if not check:
            path.write_text(rendered)
        elif rendered != before:
            sys.exit(f"{name} differs from benchmarks/results/: run python benchmarks/render_readme.py")


if __name__ == "__main__":
    main()
