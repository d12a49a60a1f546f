"""The pages of the documentation stay true: their Python runs, and they name what the code has."""

import ast
import asyncio
import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import click
import pytest
import yaml

from fastlane_rag import FastLaneIndex, FastLaneModel, errors
from fastlane_rag.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SCRIPTS = DOCS / "_site"
PAGES = sorted((*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")))
MARKS = {"gpu.md": pytest.mark.gpu, "training.md": pytest.mark.slow, "cluster.md": pytest.mark.slow}
"""Pages whose code needs a device, or a minute."""

SETTINGS = {"images.md": "with_images", "cluster.md": "with_ray"}
"""Pages whose code needs what the fixture makes: what stands in the place of some texts, and names that it knows."""

ELSEWHERE = {"swapping.md", "candidates.md"}
"""Pages whose code tests of their subject run."""

WITH_CODE = [
    pytest.param(page, marks=MARKS.get(page.name, ()), id=page.relative_to(DOCS).as_posix())
    for page in PAGES
    if "```python\n" in page.read_text(encoding="utf-8") and page.relative_to(DOCS).as_posix() not in ELSEWHERE
]


Loader = Callable[[Path], ModuleType]
Setting = tuple[dict[str, str], dict[str, Any]]


Serving = Callable[[Any], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def serving(module_of: Loader) -> Serving:
    """The address of a server with an empty index of a model."""
    from fastlane_rag.serve.app import create_app
    from fastlane_rag.serve.settings import ServeSettings

    @contextmanager
    def serve(model: Any) -> Iterator[str]:
        with FastLaneIndex.create(model=model) as index:
            running = module_of(ROOT / "tests/serve/conftest.py").Running(create_app(ServeSettings(), {"docs": index}))
            yield running.url
            running.stop()

    return serve


@pytest.fixture(scope="module")
def with_server(model: Any, serving: Serving) -> Iterator[Setting]:
    """A server in place of the one that pages name."""
    with serving(model) as url:
        yield {"http://localhost:8000": url}, {"api_key": None}


@pytest.fixture
def with_images(tmp_path: Path, module_of: Loader, serving: Serving) -> Iterator[Setting]:
    """Two pages, a tiny page model with random weights, and a server that has it."""
    image = pytest.importorskip("PIL.Image")
    for i in (1, 2):
        image.new("RGB", (60 * i, 80), "navy").save(tmp_path / f"page-{i}.png")
    folder = module_of(ROOT / "examples" / "page_model.py").random_page_model(tmp_path / "model")
    with serving(FastLaneModel.from_pretrained(folder, device="cpu", backend="torch")) as url:
        yield {"http://localhost:8000": url, "a ColPali checkpoint": folder.as_posix()}, {}


@pytest.fixture
def with_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    """A Ray cluster of this machine alone, or the one that other tests have started, for fewer shards; documents."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'fastlane-rag[ray]'")
    started = not ray.is_initialized()
    if started:
        monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray lets other work go first
        monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        memory = 80 << 20
        ray.init("local", num_cpus=8, object_store_memory=memory, include_dashboard=False, log_to_driver=False)
    texts = ["Cats purr when they are content.", "Dogs bark at strangers.", "Birds sing."]
    names: dict[str, Any] = {"texts": texts, "ids": ["cat", "dog", "bird"], "metadatas": [{"year": 2024}] * 3}
    fewer = {"shards=4, replicas=1": "shards=2, replicas=1, cpus=0.1, timeout=300"}
    yield {"/shared/papers": (tmp_path / "papers").as_posix(), **fewer}, names
    if "cluster" in names:
        names["cluster"].stop()
    if started:
        ray.shutdown()


@pytest.mark.parametrize("page", WITH_CODE)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_python_block_runs(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block after block in one namespace, in a directory of its own; a page that asks a server asks one that runs.

    Blocks inside lists are pieces: tests of their subject run them.
    """
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    setting = SETTINGS.get(page.name, "with_server" if "http://localhost:8000" in text else None)
    instead, namespace = request.getfixturevalue(setting) if setting else ({}, {})
    for told, given in instead.items():
        text = text.replace(told, given)
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        code = compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        awaited = eval(code, namespace)  # which runs statements, too
        if inspect.iscoroutine(awaited):
            asyncio.run(awaited)


def test_the_first_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The block that needs nothing but what it says; the two swaps around it stand in chains of their readers."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (one for one in blocks if "from fastlane_rag import" in one)
    exec(compile(block, "README.md", "exec"), {})
    assert "Cats purr" in capsys.readouterr().out


def test_every_error_has_a_cause_and_a_cure() -> None:
    text = (DOCS / "troubleshooting.md").read_text()
    told = re.findall(r"^### (\w+)\n\n\*\*Cause\.\*\* .+\n\n\*\*Cure\.\*\* .+$", text, flags=re.MULTILINE)
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert told == sorted(classes)


def nav_pages(entries: Any) -> list[str]:
    """The pages named in a navigation, in its order."""
    if isinstance(entries, str):
        return [entries]
    if isinstance(entries, dict):
        return [page for entry in entries.values() for page in nav_pages(entry)]
    return [page for entry in entries for page in nav_pages(entry)]


def test_the_navigation_lists_every_page_once() -> None:
    listed = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    hooks = (SCRIPTS / "hooks.py").read_text()
    published = re.findall(r'^    "(\S+\.md)": "(\S+\.md)",$', hooks, flags=re.MULTILINE)
    assert all((ROOT / source).is_file() for source, _ in published)
    shown = [shown for _, shown in published] + [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(listed) == sorted(shown)


def test_every_public_class_is_in_the_reference() -> None:
    """What fastlane_rag, its candidates and the adapters export has its place on a page of the reference."""
    text = "\n".join(page.read_text() for page in DOCS.glob("reference/*.md"))
    listed = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, flags=re.MULTILINE))
    candidates = ("fastlane_rag.candidates", "fastlane_rag.candidates.pgvector", "fastlane_rag.candidates.qdrant")
    for name in ("fastlane_rag", *candidates, "langchain_fastlane", "llama_index.retrievers.fastlane"):
        module = importlib.import_module(name)
        classes = {one for one in module.__all__ if inspect.isclass(getattr(module, one))}
        assert not classes - listed, name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    """Every line that starts with `fastlane` parses; nothing is run."""
    for line in re.findall(r"^ {4}(fastlane .*)$", page.read_text(), flags=re.MULTILINE):
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = main.commands[name]
        command.make_parser(click.Context(command)).parse_args(arguments)


def test_the_pictures_are_what_explain_says_today(model: Any, module_of: Loader) -> None:
    """Words, routed tokens and their order; numbers may differ in the last digit from processor to processor."""
    for name, drawn in module_of(SCRIPTS / "pictures.py").pictures().items():
        kept = (DOCS / "images" / name).read_text(encoding="utf-8")
        assert words(drawn) == words(kept), f"run make pictures: {name}"


def words(picture: str) -> list[tuple[str, str | None]]:
    """The texts of a drawing with their colours, without those that are figures."""
    texts = [one for one in ElementTree.fromstring(picture).iter() if one.tag.endswith("}text")]
    told = [("".join(one.itertext()), one.get("fill")) for one in texts]
    return [(text, fill) for text, fill in told if not re.fullmatch(r"[\u00d7=]? ?[\d.]+", text)]


def test_links_on_the_site_lead_to_pages_of_the_site(module_of: Loader) -> None:
    """A link from one file of the repository to another becomes one from page to page, or plain words."""
    pytest.importorskip("mkdocs")
    hooks = module_of(SCRIPTS / "hooks.py")
    led = hooks._led(
        "[docs/start.md](docs/start.md#next), [b](fastlane_rag/types.py), ![c](docs/images/x.svg)",
        "README.md",
        "index.md",
    )
    assert led == "[Start](start.md#next), b, ![c](images/x.svg)"
    assert hooks._led("[a](../../README.md)", "docs/reference/model.md", "reference/model.md") == "[a](../index.md)"


def test_what_a_built_site_lacks_is_noticed(tmp_path: Path, module_of: Loader) -> None:
    """A link, an anchor, and a font from elsewhere."""
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="b.html#there">b</a><a href="b.html#gone">b</a>')
    (tmp_path / "b.html").write_text(
        '<p id="there"></p><a href="c.html">c</a><script src="https://cdn.example/x.js"></script>'
        '<a href="https://example.com">elsewhere</a>'
    )
    assert module_of(SCRIPTS / "check.py").problems(tmp_path) == [
        "a.html links to b.html#gone: no such anchor",
        "b.html links to c.html, which is not there",
        "b.html loads https://cdn.example/x.js",
    ]
