"""What every test may use: the bundled model and real passages."""

import gc
import importlib.util
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell that starts tests in the background has them ignore SIGINT, and so do the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastlane_rag import FastLaneModel

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
_COLLECT_BYTES = 2 << 30
_collect_at = _COLLECT_BYTES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, saying why."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if not SHARED_DATA.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the research datasets in {SHARED_DATA}"))


@pytest.fixture(scope="session")
def module_of() -> Callable[[Path], ModuleType]:
    """Loads a script, or a file of other tests, as a module."""

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"loaded_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def model() -> "FastLaneModel":
    """The bundled default model, on one thread so that runs are comparable."""
    import torch

    from fastlane_rag import FastLaneModel

    torch.set_num_threads(1)
    return FastLaneModel.from_pretrained()


@pytest.fixture(scope="session")
def passages() -> list[dict[str, str]]:
    """Real PEP passages, the packaged sample: `id`, `title`, `text`."""
    from fastlane_rag.data import read_passages, sample_path

    return [{"id": p.id, "title": p.title, "text": p.text} for p in read_passages(sample_path())]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research datasets, for tests marked `shared`."""
    return SHARED_DATA


def pytest_runtest_teardown() -> None:
    """Collect models that tests have opened and dropped: torch's modules are cycles, and wait for a full collection."""
    global _collect_at
    if (resident := _resident()) > _collect_at:
        gc.collect()
        _collect_at = max(resident, _resident() + _COLLECT_BYTES)


def _resident() -> int:
    """Bytes of memory in use; 0 where the system does not say."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.exists() else 0
