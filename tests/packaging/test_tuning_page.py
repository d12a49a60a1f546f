"""docs/tuning.md names every constant with its default; STORE_FORMAT.md names the sizes of writing."""

import importlib
import re
from ast import literal_eval
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.upkeep import merge, recode, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tuning.md").read_text()
ROWS = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE)
DEFAULTS = {name: value for name, value, _, _ in ROWS}


def shown(value: Any) -> str:
    """A value as the page writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def test_every_field_of_the_policy_has_one_row() -> None:
    listed = [name for name, *_ in ROWS if "." not in name]
    assert sorted(listed) == sorted(one.name for one in fields(SearchPolicy))


@pytest.mark.parametrize("field", fields(SearchPolicy), ids=lambda field: field.name)
def test_a_field_stands_with_its_default(field: Any) -> None:
    assert DEFAULTS[field.name] == shown(field.default)


@pytest.mark.parametrize("name", [name for name in DEFAULTS if "." in name])
def test_a_constant_of_writing_stands_with_its_value(name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert DEFAULTS[name] == shown(getattr(importlib.import_module(f"fastlane_rag.{module}"), constant))


def test_every_row_has_a_sentence_and_evidence() -> None:
    """Evidence is a figure, a reference, or the words "not measured"."""
    for name, _, does, evidence in ROWS:
        assert does.strip().endswith("."), name
        assert re.search(r"\d|below|[Tt]he tables|See|No figure|no figure|Not measured", evidence), name


def test_the_table_of_documents_to_rescore_is_what_the_policy_says() -> None:
    [(head, body)] = re.findall(r"^\| documents in code \|(.*)\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    tokens = [int(number) for number in re.findall(r"\d+", head)]
    assert tokens == [1, 2, 4, 8, 16]
    policy = SearchPolicy()
    for line in body.splitlines():
        documents, *numbers = (int(cell.replace(",", "")) for cell in line.strip("| ").split("|"))
        for routed, number in zip(tokens, numbers, strict=True):
            assert policy.rescored(documents, routed, policy.refined(24, None)) == number


def test_the_python_of_the_page_compiles_and_sets_fields_that_exist() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "tuning.md", "exec")
        for arguments in re.findall(r"SearchPolicy\((\w[^)]*)\)", block):
            SearchPolicy(**{name: literal_eval(value) for name, value in re.findall(r"(\w+)=([^,]+)", arguments)})


def test_the_store_format_names_the_sizes_of_today() -> None:
    text = " ".join((ROOT / "STORE_FORMAT.md").read_text().split())
    assert f"up to {write.SMALL_BYTES >> 10} KiB in float16" in text
    assert f"More than {merge.PENDING_BYTES >> 20} MiB in `pending`" in text
    assert f"of more than {merge.LARGEST_BYTES >> 30} GiB" in text
    assert f"the {recode.TRAIN_TOKENS:,} tokens to train" in text
    assert (merge.FAN, recode.GROWTH) == (4, 8)
    assert "Four segments of one size class" in text
    assert "more than eight times the tokens" in text
