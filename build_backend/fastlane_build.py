"""The build backend: scikit-build-core, with a compiler for machines that have none.

pip asks a backend what it needs before it builds. Where no C++ compiler is found, this one asks for the PyPI package
`ziglang`, which brings Clang for every platform, and hands it to CMake. FASTLANE_ZIG_TARGET builds with it for another
platform or an older C library: `x86_64-linux-gnu.2.28`, `aarch64-linux-gnu.2.28` (see `make wheels`).
FASTLANE_COMPILER=zig builds with it for this one, whatever else is there.

An editable install lays the library beside the source files, and a path to these into site-packages: modules that
come, go or move need no second install.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from scikit_build_core import build as scikit

Settings = dict[str, Any] | None

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = ("c++", "g++", "clang++")  # the kernels are written for GCC and Clang
ZIG = "ziglang>=0.13"
TARGET = "FASTLANE_ZIG_TARGET"
CHOSEN = "FASTLANE_COMPILER"
PACKAGE = "fastlane_rag/scoring/native"

build_sdist = scikit.build_sdist
get_requires_for_build_sdist = scikit.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = scikit.prepare_metadata_for_build_wheel


def needs_zig() -> bool:
    """Whether there is no compiler, or zig was asked for."""
    if os.environ.get(TARGET) or os.environ.get(CHOSEN) == "zig":
        return True
    return not os.environ.get("CXX") and not any(shutil.which(name) for name in COMPILERS)


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What scikit-build-core needs, and a compiler where there is none."""
    return [*scikit.get_requires_for_build_wheel(config_settings), *([ZIG] if needs_zig() else [])]


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build a wheel with scikit-build-core and the compiler there is."""
    with tempfile.TemporaryDirectory(prefix="fastlane-zig-") as folder:
        if not needs_zig():
            return scikit.build_wheel(wheel_directory, config_settings, metadata_directory)
        settings = dict(config_settings or {})
        settings.update(zig_settings(Path(folder)))
        return scikit.build_wheel(wheel_directory, settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build the library into the source tree, and a wheel that is its metadata and a path to that tree."""
    with tempfile.TemporaryDirectory(prefix="fastlane-editable-") as folder:
        name = build_wheel(folder, config_settings)
        target = Path(wheel_directory) / name
        with zipfile.ZipFile(Path(folder) / name) as built, zipfile.ZipFile(target, "w") as editable:
            files: dict[str, bytes] = {"fastlane_rag.pth": f"{ROOT}\n".encode()}
            for file in built.namelist():
                if Path(file).parent.as_posix() == PACKAGE and Path(file).suffix in (".so", ".dylib", ".dll"):
                    replace(ROOT / file, built.read(file))
                elif ".dist-info/" in file and not file.endswith(("/RECORD", "/")):
                    files[file] = built.read(file)
            info = next(file.split("/")[0] for file in files if ".dist-info/" in file)
            lines = [f"{file},sha256={digest(data)},{len(data)}" for file, data in files.items()]
            files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
            for file, data in files.items():
                editable.writestr(file, data)
    return name


def replace(file: Path, data: bytes) -> None:
    """Put a new file in the place of one that a running process may have loaded."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(file)


def digest(data: bytes) -> str:
    """As RECORD wants it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def zig_settings(folder: Path) -> dict[str, str]:
    """Write a CMake toolchain that compiles with zig, and give the setting that chooses it."""
    if importlib.util.find_spec("ziglang") is None:
        raise SystemExit(
            "fastlane-rag has a part in C++, and there is no C++ compiler here: install one (on Debian: apt install "
            "g++), or let pip install the package ziglang for the build (without --no-build-isolation)"
        )
    target = os.environ.get(TARGET, "")
    tools = {}
    for tool in ("c++", "ar", "ranlib"):
        script = folder / f"zig-{tool.replace('+', 'x')}{'.cmd' if sys.platform == 'win32' else ''}"
        words = [sys.executable, "-m", "ziglang", tool]
        if tool == "c++":  # for any processor of its kind, not for this one
            words += ["-mcpu=baseline", *(["-target", target] if target else [])]
        if sys.platform == "win32":
            script.write_text("@" + " ".join(f'"{word}"' for word in words) + " %*\n")
        else:
            script.write_text("#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in words) + ' "$@"\n')
        script.chmod(0o755)
        tools[tool] = script.as_posix()
    lines = [f'set(CMAKE_CXX_COMPILER "{tools["c++"]}")', f'set(CMAKE_AR "{tools["ar"]}")']
    lines.append(f'set(CMAKE_RANLIB "{tools["ranlib"]}")')
    if target:
        lines += ["set(CMAKE_SYSTEM_NAME Linux)", f"set(CMAKE_SYSTEM_PROCESSOR {target.partition('-')[0]})"]
    toolchain = folder / "zig.cmake"
    toolchain.write_text("\n".join(lines) + "\n")
    settings = {"cmake.define.CMAKE_TOOLCHAIN_FILE": toolchain.as_posix(), "install.strip": "false"}
    if target:
        settings["wheel.tags"] = f"py3-none-{manylinux(target)}"
    return settings


def manylinux(target: str) -> str:
    """The platform tag of a target of zig: x86_64-linux-gnu.2.28 gives manylinux_2_28_x86_64.

    Raises:
        SystemExit: it is another kind of target.
    """
    found = re.fullmatch(r"(x86_64|aarch64)-linux-gnu\.(\d+)\.(\d+)", target)
    if found is None:
        raise SystemExit(f"{TARGET} must be like x86_64-linux-gnu.2.28 or aarch64-linux-gnu.2.28, but is {target!r}")
    machine, major, minor = found.groups()
    return f"manylinux_{major}_{minor}_{machine}"
