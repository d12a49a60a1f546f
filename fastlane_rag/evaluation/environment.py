"""The environment of a measurement: hardware, versions, commit, command."""

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = (
    "fastlane-rag",
    "langchain-fastlane",
    "llama-index-retrievers-fastlane",
    "torch",
    "transformers",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "onnxruntime",
    "langchain-core",
    "llama-index-core",
    "ir-measures",
    "bm25s",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What a figure depends on besides the input.

    Attributes:
        cpu: the processor's name.
        cores: logical cores this process may use.
        memory_gib: main memory.
        gpus: names of the CUDA devices.
        platform: operating system and architecture.
        python: the interpreter's version.
        versions: installed version by distribution, of those that matter here.
        threads: torch's threads for one operation.
        commit: the source's git commit, with "+" if tracked files differ from it;
            None outside a checkout.
        command: the command line.
    """

    cpu: str
    cores: int
    memory_gib: float
    gpus: list[str]
    platform: str
    python: str
    versions: dict[str, str]
    threads: int
    commit: str | None
    command: str

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def environment() -> Environment:
    """Describe this process and its machine."""
    import torch

    return Environment(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions(),
        threads=torch.get_num_threads(),
        commit=_commit(),
        command=shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "fastlane"), *map(_portable, sys.argv[1:])]),
    )


def _portable(argument: str) -> str:
    """An argument of the command line without the folders of this machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def kernels() -> tuple[str, list[str], str | None]:
    """The level of the compiled kernels in use, the levels that can run here, and why none runs, if none does."""
    import warnings

    from fastlane_rag.scoring.native import kernels as compiled
    from fastlane_rag.scoring.native import library

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning says the same as the problem
        problem = library.problem()
    return compiled.level(), compiled.levels(), problem


def versions() -> dict[str, str]:
    """Installed versions of the distributions that matter here; missing ones are left out."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0.0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _commit() -> str | None:
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]  # fixed words; git is wherever the user has it
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603

    try:
        # A package installed inside another checkout must not report that checkout's commit.
        if not git("ls-files", "--", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
