"""Write the figures of benchmarks/results/ between the markers in README.md and the pages in docs/.

python benchmarks/render_readme.py           # rewrite the tables
python benchmarks/render_readme.py --check   # exit code 1 when a document differs from the results
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from tables import TABLES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/cluster.md", "docs/encoding.md", "docs/figures.md", "docs/tuning.md", "docs/peers.md")
BLOCK = re.compile(r"<!-- figures:(\S+) -->\n.*?<!-- /figures:\1 -->", flags=re.DOTALL)
COMMIT = re.compile(r"\bcommit ([0-9a-f]{7,40})\b")
JUDGED = ("fastlane_rag/search", "fastlane_rag/scoring", "fastlane_rag/model")
"""What decides the figures of a search."""
TOLERANCE = 50
"""Commits that may change `JUDGED` before a table is marked."""
OLDER = f"Older than the code: more than {TOLERANCE} commits have changed the search, the scoring or the model since."


@cache
def changes_since(commit: str) -> int | None:
    """Commits that changed `JUDGED` after a commit; None where the history is not at hand, as in a shallow clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if git("rev-parse", "--is-shallow-repository") != "false":
            return None
        return int(git("rev-list", "--count", f"{commit}..HEAD", "--", *JUDGED))
    except (OSError, subprocess.CalledProcessError):
        return None


def marked(table: str, before: str) -> str:
    """A table with the sentence `OLDER` under it, if a commit that it names is older than `TOLERANCE` allows.

    Where the history is not at hand the sentence stays as it was `before`.
    """
    ages = [changes_since(commit) for commit in COMMIT.findall(table)]
    older = OLDER in before if None in ages else any(age > TOLERANCE for age in ages if age is not None)
    return f"{table}\n\n{OLDER}" if older else table


def render(text: str, results: Path = RESULTS) -> str:
    """A document with every block replaced by its table, which says so if it is older than the code.

    Raises:
        ValueError: no table has the name of a block.
    """

    def replace(block: re.Match[str]) -> str:
        name = block[1]
        if name not in TABLES:
            raise ValueError(f"a block is named {name!r}, there is no such table: {', '.join(TABLES)}")
        return f"<!-- figures:{name} -->\n{marked(TABLES[name](results), block[0])}\n<!-- /figures:{name} -->"

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
