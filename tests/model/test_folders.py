"""Model folders that are cut off, incomplete or hostile, and places where the bundled model cannot be unpacked."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import InvalidInputError, ModelError, StorageError
from fastlane_rag.model import default
from fastlane_rag.model.shared import shared_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with routers, as FastLaneModel.save writes it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    FastLaneModel.from_pretrained(checkpoints["multi-vector"], dtype="float32", device="cpu").save(folder)
    return folder


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")


def removed(file: Path) -> None:
    file.unlink()


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff\xfe{" * 30)


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


def changed(**values: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def deep(file: Path) -> None:
    file.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def without(word: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        kept = {name: value for name, value in load_file(file).items() if word not in name}
        save_file(kept, file, metadata={"format": "pt"})

    return change


def modules(path: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        listed = json.loads(file.read_text())
        listed[-1]["path"] = path
        file.write_text(json.dumps(listed))

    return change


WEIGHTS, CONFIG, ROUTER = "model.safetensors", "config.json", "2_QueryRouter/model.safetensors"
CASES = [
    *[
        (name, change)
        for name in (WEIGHTS, ROUTER)
        for change in (cut, empty, pointer, garbage, pipe, endless, dangling)
    ],
    *[(CONFIG, change) for change in (cut, empty, pointer, removed, garbage, pipe, endless, deep)],
    *[("tokenizer.json", change) for change in (cut, empty, garbage, endless)],
    *[(ROUTER, change) for change in (removed, without("score"), without("prior"))],
    (WEIGHTS, removed),
    (WEIGHTS, without("position")),
    (WEIGHTS, without("layer.1")),
    *[
        (name, removed)
        for name in (
            "1_MultiVectorMask/config.json",
            "2_QueryRouter/config.json",
            "5_Normalize/config.json",
            "config_sentence_transformers.json",
            "fastlane_routers.json",
            "modules.json",
            "tokenizer.json",
        )
    ],
    ("2_QueryRouter/config.json", changed(inner_size=10**9)),
    ("2_QueryRouter/config.json", changed(vocabulary_size=10**11)),
    ("fastlane_routers.json", changed(routers=[])),
    ("fastlane_routers.json", changed(routers=[{"type": "QueryRouter", "path": "2_QueryRouter"}])),
    ("fastlane_routers.json", changed(routers=7)),
    ("fastlane_routers.json", garbage),
    ("modules.json", garbage),
    ("modules.json", modules("../elsewhere")),
    ("modules.json", modules("/etc")),
    (CONFIG, changed(num_hidden_layers=10**5)),
    (CONFIG, changed(hidden_size=10**6, intermediate_size=10**6)),
    (CONFIG, changed(vocab_size=10**10)),
    (CONFIG, changed(max_position_embeddings=10**10)),
    (CONFIG, changed(num_labels=10**9)),
    (CONFIG, changed(padding="x" * 2_000_000)),
    (CONFIG, changed(hidden_size="many")),
    (CONFIG, changed(model_type="nothing known")),
    ("config_sentence_transformers.json", changed(prompts={"query": "a " * 20_000, "document": ""})),
    ("config_sentence_transformers.json", changed(query_length=10**9)),
]


@pytest.mark.parametrize(("name", "change"), CASES)
def test_a_folder_that_is_no_model_is_refused_at_once_and_named(
    saved: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    change(folder / name)
    start = time.monotonic()
    with pytest.raises(ModelError, match=str(folder)):
        FastLaneModel.from_pretrained(folder, dtype="float32", device="cpu")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("where", ["file", "file/deeper", "", "a\0b", "x" * 300, "full"])
def test_a_folder_that_takes_no_model_is_told(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "file").write_text("")
    model = FastLaneModel.from_pretrained(saved, dtype="float32", device="cpu")
    if where == "full":
        monkeypatch.setattr(model.encoder, "save", lambda path: 1 / 0)  # stands for any library's error
    with pytest.raises(StorageError, match=f"cannot save the model '{saved}': .*with room for it"):
        model.save(where and tmp_path / where)


@pytest.mark.parametrize("given", ["path", "member"])
def test_a_folder_may_be_anything_with_a_path(saved: Path, tmp_path: Path, given: str) -> None:
    """What its `str` is does not count."""

    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "model")

    place = Place() if given == "path" else Enum("Place", {"MODEL": str(tmp_path / "model")}, type=str).MODEL
    FastLaneModel.from_pretrained(saved, dtype="float32", device="cpu").save(place)
    assert FastLaneModel.from_pretrained(place, device="cpu").name == str(tmp_path / "model")
    assert shared_model(place, device="cpu").name == str(tmp_path / "model")


def test_a_sound_folder_opens_through_links_as_the_hub_stores_it(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    for file in saved.rglob("*"):
        link = folder / file.relative_to(saved)
        if file.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    opened = FastLaneModel.from_pretrained(folder, dtype="float32", device="cpu")
    assert opened.fingerprint == FastLaneModel.from_pretrained(saved, dtype="float32", device="cpu").fingerprint


COMMIT = "0123456789abcdef" * 2 + "01234567"


def cached(saved: Path, cache: Path) -> Path:
    """A copy of a model as the hub's cache has it. Returns the folder of its files."""
    repository = cache / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(saved, repository / "snapshots" / COMMIT))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (WEIGHTS, cut),
        (WEIGHTS, pointer),
        (WEIGHTS, endless),
        ("tokenizer.json", pipe),
        (CONFIG, changed(num_hidden_layers=10**5)),
        ("modules.json", modules("../elsewhere")),
        ("config_sentence_transformers.json", changed(prompts={"query": "a " * 20_000, "document": ""})),
    ],
)
def test_a_model_of_the_hub_is_checked_before_it_is_built(
    saved: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(cached(saved, tmp_path) / name)
    start = time.monotonic()
    with pytest.raises(ModelError, match=COMMIT):
        FastLaneModel.from_pretrained("someone/model", cache_folder=str(tmp_path), device="cpu")
    assert time.monotonic() - start < 5


def test_a_sound_model_of_the_hubs_cache_opens(saved: Path, tmp_path: Path) -> None:
    cached(saved, tmp_path)
    opened = FastLaneModel.from_pretrained("someone/model", cache_folder=str(tmp_path), dtype="float32", device="cpu")
    assert opened.name == "someone/model"
    assert opened.fingerprint == FastLaneModel.from_pretrained(saved, dtype="float32", device="cpu").fingerprint


def test_a_model_that_neither_hub_nor_cache_has_is_refused_at_once(tmp_path: Path) -> None:
    """By default each of the loader's requests is tried six times."""
    asked = subprocess.run(
        [
            *(sys.executable, "-c"),
            "from fastlane_rag import FastLaneModel\n"
            f"FastLaneModel.from_pretrained('someone/nothing', cache_folder={str(tmp_path)!r}, device='cpu')",
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
    )
    assert "ModelError: cannot open the model 'someone/nothing'" in asked.stderr
    assert "Retrying" not in asked.stderr


@pytest.mark.parametrize("model", [5, b"docs", ["a"], object()])
def test_what_is_no_model_at_all_is_refused(model: object) -> None:
    with pytest.raises(InvalidInputError, match="model must be"):
        FastLaneModel.from_pretrained(model)  # type: ignore[arg-type]


def test_large_files_that_are_no_configuration_are_left_alone(saved: Path, tmp_path: Path) -> None:
    """Vocabularies and results of evaluations lie beside a model."""
    folder = shutil.copytree(saved, tmp_path / "model")
    for file in ("unigram.json", "results/scores.json"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(["x" * 2_000_000]))
    FastLaneModel.from_pretrained(folder, dtype="float32", device="cpu")


def test_a_folder_of_a_million_files_is_not_walked_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlane_rag.model.folder._MOST_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).write_text("")
    with pytest.raises(ModelError, match="it is no model folder"):
        FastLaneModel.from_pretrained(tmp_path)


# --- where the bundled model is unpacked -------------------------------------------------------------------------


@pytest.fixture
def unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder; unpacking only makes the target, and there is no home."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(default, "unpack_model", lambda source, target: target.mkdir())
    monkeypatch.setattr(default.Path, "home", homeless)
    for name in ("FASTLANE_CACHE", "XDG_CACHE_HOME", "HOME", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "tmp"


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_name_or_home_gets_a_temporary_folder(unpacking: Path) -> None:
    folder = default.default_model_path()
    assert folder.parent == default.cache_dir() == unpacking / f"fastlane-rag-{os.getuid()}"
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert default.default_model_path() == folder


def test_fastlane_cache_needs_no_home(unpacking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLANE_CACHE", str(unpacking / "cache"))
    assert default.default_model_path().parent == unpacking / "cache"


@pytest.mark.parametrize("foreign", ["mode", "link", "owner"])
def test_a_temporary_folder_that_others_made_is_not_used(
    unpacking: Path, monkeypatch: pytest.MonkeyPatch, foreign: str
) -> None:
    """Whoever can write into it could give us another model."""
    folder = unpacking / f"fastlane-rag-{os.getuid()}"
    if foreign == "link":
        (unpacking / "theirs").mkdir()
        folder.symlink_to(unpacking / "theirs")
    else:
        folder.mkdir()
        folder.chmod(0o777 if foreign == "mode" else 0o700)
    if foreign == "owner":
        mine = os.getuid()
        monkeypatch.setattr(default, "_temporary", lambda: folder)
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(ModelError, match=r"belongs to another user.*Set FASTLANE_CACHE"):
        default.default_model_path()


def test_a_cache_that_is_read_only_or_full_is_told_with_both_places(
    unpacking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(default, "unpack_model", refused)
    monkeypatch.setenv("FASTLANE_CACHE", str(unpacking / "cache"))
    with pytest.raises(ModelError, match=rf"{unpacking}/cache/.*{unpacking}/fastlane-rag-.*Set FASTLANE_CACHE"):
        default.default_model_path()


@pytest.mark.parametrize("change", [removed, empty, cut])
@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "1_MultiVectorMask/config.json"])
def test_a_model_that_was_unpacked_and_is_not_whole_any_more_is_unpacked_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Path], None]
) -> None:
    """What tidies temporary folders takes single files; a power loss cuts them."""
    monkeypatch.setattr(default, "_BUNDLE", saved)
    monkeypatch.setenv("FASTLANE_CACHE", str(tmp_path))
    folder = default.default_model_path()
    whole = (folder / name).read_bytes()
    kept = (folder / CONFIG).stat().st_ino
    assert (default.default_model_path() / CONFIG).stat().st_ino == kept
    change(folder / name)
    assert default.default_model_path() == folder
    assert (folder / name).read_bytes() == whole


def test_unpacking_leaves_no_drafts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when it fails, and not where an earlier process was killed in mid-unpacking."""
    old, young = tmp_path / ".unpack-old", tmp_path / ".unpack-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    (source / "part" / "config.json").write_text("{}")
    (source / "part" / "config.json").chmod(0o444)
    default.unpack_model(source, tmp_path / "target")
    assert (tmp_path / "target" / "part" / "config.json").read_text() == "{}"
    monkeypatch.setattr(default.Path, "write_bytes", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        default.unpack_model(source, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {".unpack-young", "source", "target"}


def test_an_unknown_user_without_an_environment_searches(tmp_path: Path) -> None:
    """As in a container that was started with a number for its user."""
    code = """
import pwd

def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = unknown
from fastlane_rag import FastLaneIndex
index = FastLaneIndex.create("index")
index.add(["Cats purr."])
print(index.search("cats")[0].text)
"""
    environment = {"FASTLANE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "Cats purr.\n", done.stderr
