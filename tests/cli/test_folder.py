"""`fastlane index FOLDER`: text, Markdown, HTML and PDF files, mirrored in an index."""

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.cli import main
from fastlane_rag.data.files import KINDS, Page, read_file

sys.path.insert(0, str(Path(__file__).parent))

from pdf import pdf

PAGES = ["The lighthouse keeper counts the ships.", "Heliotrope is the password (of the vault).", ""]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of each kind, and what is to be passed over."""
    root = tmp_path / "papers"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "notes.txt").write_text("Yeast turns sugar into carbon dioxide.", encoding="utf-8-sig")
    (root / "deep" / "garden.md").write_text("# Garden\n\nTulips bloom in May.\n")
    (root / "deep" / "er" / "ferry.html").write_text(
        '<html><head><meta charset="iso-8859-1"><style>p {color: red}</style></head><body><h1>Boats</h1>'
        "<p>The ferry to Z\u00fcrich leaves at noon.</p><script>alert('stolen')</script></body></html>",
        encoding="iso-8859-1",
    )
    (root / "vault.pdf").write_bytes(pdf(PAGES))
    (root / ".git" / "secret.txt").write_text("hidden")
    (root / ".hidden.md").write_text("hidden")
    (root / "photo.png").write_bytes(b"\x89PNG")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "index"


def stored(out: Path) -> dict[str, list[str]]:
    """The passages of each source."""
    found: dict[str, list[str]] = {}
    with FastLaneIndex.open(out, read_only=True) as index:
        for document in index.get(index.ids()):
            found.setdefault(document.metadata["source"], []).append(document.text)
    return found


def test_every_kind_is_read_with_its_source_and_page(folder: Path, out: Path) -> None:
    result = run("index", folder, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == (f"4 file(s) read: 5 passages, 5 of them new, 0 changed, 0 stored already; {out} holds 5\n")
    assert "files of other kinds passed over: 1 .png" in result.stderr
    found = stored(out)
    assert found.keys() == {"notes.txt", "deep/garden.md", "deep/er/ferry.html", "vault.pdf"}
    assert found["notes.txt"] == ["Yeast turns sugar into carbon dioxide."]
    assert found["deep/er/ferry.html"] == ["# Boats\n\nThe ferry to Zürich leaves at noon."]
    with FastLaneIndex.open(out, read_only=True) as index:
        [hit] = index.search("what is the password?", k=1)
        assert hit.text == PAGES[1]
        assert (hit.metadata["source"], hit.metadata["page"]) == ("vault.pdf", 2)
        assert {hit.metadata["page"] for hit in index.search("x", filter={"source": "vault.pdf"})} == {1, 2}


def test_run_again_it_follows_the_folder(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("index", folder, "--out", out)
    encoded: list[str] = []
    encode = FastLaneModel.encode_documents

    def noting(model: FastLaneModel, texts: list[str], **options: object) -> object:
        encoded.extend(texts)
        return encode(model, texts, **options)

    monkeypatch.setattr(FastLaneModel, "encode_documents", noting)
    assert "0 of them new, 0 changed, 5 stored already" in run("index", folder, "--out", out).stdout
    assert not encoded
    (folder / "notes.txt").write_text("Entirely new words.")
    (folder / "deep" / "garden.md").unlink()
    (folder / "vault.pdf").write_bytes(pdf(PAGES[:1]))
    (folder / "more.rst").write_text("One more file.")
    result = run("index", folder, "--out", out)
    assert "1 of them new, 1 changed, 2 stored already, 2 gone" in result.stdout
    assert encoded == ["One more file.", "Entirely new words."]
    assert stored(out) == {
        "notes.txt": ["Entirely new words."],
        "deep/er/ferry.html": ["# Boats\n\nThe ferry to Zürich leaves at noon."],
        "vault.pdf": [PAGES[0]],
        "more.rst": ["One more file."],
    }


def test_what_came_from_elsewhere_stays(folder: Path, out: Path, tmp_path: Path) -> None:
    lines = tmp_path / "corpus.jsonl"
    lines.write_text(json.dumps({"_id": "line", "text": "A line.", "source": "notes.txt"}) + "\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("Notes of another folder.")
    for one in (lines, other, folder):
        assert run("index", one, "--out", out).exit_code == 0
    (folder / "notes.txt").unlink()
    assert ", 1 gone" in run("index", folder, "--out", out).stdout
    assert sorted(stored(out)["notes.txt"]) == ["A line.", "Notes of another folder."]


def test_a_long_text_is_cut_into_passages_that_overlap_and_fit(folder: Path, out: Path) -> None:
    sentences = [f"Sentence number {n} speaks of a river and of the town beside it." for n in range(200)]
    (folder / "long.txt").write_text(" ".join(sentences))
    run("index", folder, "--out", out)
    passages = stored(out)["long.txt"]
    tokenizer = FastLaneModel.from_pretrained().encoder.tokenizer
    counts = [len(tokenizer(passage)["input_ids"]) for passage in passages]
    assert max(counts) <= 256
    assert len(passages) > 5
    assert all(any(sentence in passage for passage in passages) for sentence in sentences)
    assert all(later.split(". ")[0] in before for before, later in pairwise(passages))


def test_files_that_cannot_be_read_are_named_and_stop_everything_unless_skipped(folder: Path, out: Path) -> None:
    run("index", folder, "--out", out)
    (folder / "notes.txt").write_bytes(b"\xff\x00\xfa caf\xe9")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4\nnothing")
    (folder / "scan.pdf").write_bytes(pdf([""]))
    result = run("index", folder, "--out", out)
    assert result.exit_code == 1
    assert f"cannot read {folder / 'notes.txt'}: byte 0 is no UTF-8" in result.stderr
    assert f"cannot read {folder / 'broken.pdf'}" in result.stderr
    assert f"{folder / 'scan.pdf'} holds no text, as scanned pages have none" in result.stderr
    assert "Error: 3 file(s) cannot be read, nothing was indexed; --skip-bad leaves them out" in result.stderr
    assert "Traceback" not in result.output
    skipped = run("index", folder, "--out", out, "--skip-bad")
    assert skipped.exit_code == 0
    assert "3 file(s) read, 3 left out" in skipped.stdout
    assert stored(out)["notes.txt"] == ["Yeast turns sugar into carbon dioxide."]  # what was read before stays


def test_an_emptied_file_is_told_and_its_passages_go(folder: Path, out: Path) -> None:
    run("index", folder, "--out", out)
    (folder / "notes.txt").write_text(" \n")
    result = run("index", folder, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{folder / 'notes.txt'} holds no text" in result.stderr
    assert "4 file(s) read: 4 passages, 0 of them new, 0 changed, 4 stored already, 1 gone" in result.stdout
    assert "notes.txt" not in stored(out)


def test_halves_of_surrogate_pairs_in_a_file_stop_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of PDF files gives such, where a font's table of characters is damaged."""
    monkeypatch.setitem(KINDS, ".txt", lambda path: iter([Page("a \ud83d\ude00 b \ud800")]))
    assert [page.text for page in read_file(folder / "notes.txt")] == ["a \N{GRINNING FACE} b \ufffd"]


def test_a_name_that_is_no_text_is_told_before_anything_is_stored(folder: Path, out: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))
    try:
        odd.write_text("A name in Latin 1.")
    except OSError:
        pytest.skip("this file system has no such names")
    result = run("index", folder, "--out", out)
    assert result.exit_code == 1
    assert "caf\ufffd.txt: its name is no UTF-8" in result.stderr
    assert not out.exists()
    for _ in range(2):
        skipped = run("index", folder, "--out", out, "--skip-bad")
        assert "4 file(s) read, 1 left out" in skipped.stdout, skipped.output


def test_what_lies_in_a_folder_that_cannot_be_read_now_stays(folder: Path, out: Path) -> None:
    (folder / "deep_").mkdir()
    (folder / "deep_" / "gone.txt").write_text("This one goes.")
    run("index", folder, "--out", out)
    (folder / "deep_" / "gone.txt").unlink()
    with as_nobody(folder.parent):
        (folder / "deep").chmod(0)
        result = run("index", folder, "--out", out)
        skipped = run("index", folder, "--out", out, "--skip-bad")
        (folder / "deep").chmod(0o444)  # names can be read, files cannot
        listed = run("index", folder, "--out", out, "--skip-bad")
        folder.chmod(0)
        closed = run("index", folder, "--out", out, "--skip-bad")
        folder.chmod(0o755)
    assert f"cannot read the folder {folder / 'deep'}: Permission denied" in result.stderr
    assert "Error: 1 folder(s) cannot be read, nothing was indexed" in result.stderr
    assert "2 file(s) read, 1 left out: 3 passages, 0 of them new, 0 changed, 3 stored already, 1 gone" in (
        skipped.stdout
    )
    assert "2 file(s) read, 2 left out: 3 passages" in listed.stdout, listed.output
    assert f"cannot read {folder / 'deep' / 'garden.md'}: Permission denied" in listed.stderr
    assert closed.exit_code == 1
    assert f"cannot read the folder {folder}: Permission denied" in closed.stderr
    assert stored(out).keys() == {"notes.txt", "deep/garden.md", "deep/er/ferry.html", "vault.pdf"}


@contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """As a user for whom permissions count, who owns what is below `root`."""
    if os.geteuid() != 0:
        yield
        return
    for place in (root, *root.rglob("*")):
        os.chown(place, 65534, 65534)
    for place in root.parents:
        if place.stat().st_uid == 0:
            place.chmod(place.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_files_names_the_kinds(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("index", tmp_path / "empty", "--out", tmp_path / "index")
    assert result.exit_code == 1
    assert "holds no file that can be read; these can: .txt" in result.stderr
    assert ".pdf" in result.stderr
    assert not (tmp_path / "index").exists()


def test_one_file_is_read_alone_and_others_of_its_folder_stay(folder: Path, out: Path) -> None:
    run("index", folder, "--out", out)
    (folder / "vault.pdf").write_bytes(pdf(PAGES[:1]))
    result = run("index", folder / "vault.pdf", "--out", out)
    assert result.stdout.startswith("1 file(s) read: 1 passages, 0 of them new, 0 changed, 1 stored already, 1 gone;")
    assert len(stored(out)) == 4


def test_a_link_to_a_file_is_read_by_its_own_name(folder: Path, out: Path) -> None:
    """Caches such as the hub's keep files under names without a suffix, and link to them."""
    (folder / "notes.txt").rename(folder.parent / "blob")
    (folder / "notes.txt").symlink_to(folder.parent / "blob")
    assert run("index", folder, "--out", out).exit_code == 0
    result = run("index", folder / "notes.txt", "--out", out)
    assert result.stdout.startswith("1 file(s) read: 1 passages, 0 of them new, 0 changed, 1 stored already;")
    assert "notes.txt" in stored(out)


def test_a_file_of_another_kind_is_told_which_are_read(folder: Path, out: Path) -> None:
    result = run("index", folder / "photo.png", "--out", out)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(f"nothing was indexed; JSON Lines are read, and {', '.join(KINDS)}")


def test_the_index_may_lie_in_the_folder(folder: Path) -> None:
    for _ in range(2):
        result = run("index", folder, "--out", folder / "docs.index")
        assert result.exit_code == 0
        assert "4 file(s) read" in result.stdout
    assert "sqlite" not in result.stderr


def test_without_the_extra_it_is_named_before_any_work(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("fastlane_rag.cli.extras.find_spec", lambda name: None if name == "pypdf" else find(name))
    result = run("index", folder, "--out", out)
    assert result.exit_code == 1
    assert "needs pypdf, which is not installed: pip install 'fastlane-rag[files]'" in result.stderr
    assert not out.exists()
