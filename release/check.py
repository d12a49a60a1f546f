"""Check what is to be released: files, metadata, sizes, licences, and how it works in empty environments.

python release/check.py DIST [PYTHON]      # make release-check builds DIST first

PYTHON makes the environments; python3 by default. There are two, one after the other, each removed at its end: `floor`
has the oldest frameworks that the wheels allow (constraints-floor.txt, and constraints.txt for the rest), `newest`
whatever the package index has. In each, outside the source tree, the README's first example and docs/start.md run, and
the public names are compared with tests/packaging/public_api.txt.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEBIBYTE = 1 << 20
LARGEST = {"fastlane_rag": 35 * MEBIBYTE, "langchain_fastlane": MEBIBYTE, "llama_index_retrievers_fastlane": MEBIBYTE}
"""Bytes that a wheel of each distribution may have."""

LICENCES = {"fastlane_rag": ("LICENSE", "NOTICE")}
BUNDLED = ("fastlane_rag/model/default/README.md", "fastlane_rag/data/PROVENANCE.md")
"""What says where the bundled model and the sample come from."""

EXTRAS = "[cpu,client]"


def main() -> None:
    """Check everything; exit code 1 and what is wrong at the first thing that is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dist", type=Path)
    parser.add_argument("python", nargs="?", default="python3")
    told = parser.parse_args()
    dist = told.dist.resolve()
    check_files(dist)
    wheels = wheels_here(dist)
    for name in ("floor", "newest"):
        with tempfile.TemporaryDirectory(prefix=f"fastlane-{name}-") as folder:
            check_installed(name, Path(folder), wheels, told.python)
    print("everything that is released is in order")


def check_files(dist: Path) -> None:
    """An sdist and wheels of each distribution, with their metadata, sizes and licences."""
    files = sorted((*dist.glob("*.whl"), *dist.glob("*.tar.gz")))
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for name, most in LARGEST.items():
        wheels, sdists = list(dist.glob(f"{name}-*.whl")), list(dist.glob(f"{name}-*.tar.gz"))
        if len(sdists) != 1 or not wheels:
            sys.exit(f"{dist} has {len(sdists)} sdists and {len(wheels)} wheels of {name}; empty it and make wheels")
        for wheel in wheels:
            size = wheel.stat().st_size
            print(f"{wheel.name}: {size / MEBIBYTE:.1f} MiB of {most / MEBIBYTE:.0f}")
            if size > most:
                sys.exit(f"{wheel.name} has {size:,} bytes, more than {most:,}")
            check_licences(name, wheel)


def check_licences(name: str, wheel: Path) -> None:
    """The licence files are in the metadata, and what is bundled says where it comes from."""
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        (metadata,) = (one for one in inside if one.endswith(".dist-info/METADATA"))
        headers = BytesParser().parsebytes(archive.read(metadata))
    folder = metadata.removesuffix("METADATA")
    wanted = [f"{folder}licenses/{one}" for one in LICENCES.get(name, ("LICENSE",))]
    wanted += BUNDLED if name == "fastlane_rag" else []
    if lacking := [one for one in wanted if one not in inside]:
        sys.exit(f"{wheel.name} lacks {', '.join(lacking)}")
    if headers["License-Expression"] != "Apache-2.0":
        sys.exit(f"{wheel.name} says License-Expression: {headers['License-Expression']}")


def wheels_here(dist: Path) -> list[Path]:
    """The wheels for this machine."""
    machine = platform.machine()
    found = [one for one in dist.glob("*.whl") if one.stem.endswith(("-any", machine))]
    if len(found) != len(LARGEST):
        sys.exit(f"{dist} has no wheel of each distribution for {machine}: {', '.join(one.name for one in found)}")
    return sorted(found)


def check_installed(name: str, folder: Path, wheels: list[Path], python: str) -> None:
    """Install the wheels into an empty environment and use them there, away from the source tree."""
    print(f"\n== {name} dependencies", flush=True)
    venv, work = folder / "venv", folder / "work"
    run(python, "-m", "venv", venv)
    inside = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [inside, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    run(*pip, "install", "-q", "--upgrade", "pip>=25.3")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(floor()) if name == "floor" else "")
    given = [f"{wheel}{EXTRAS}" if wheel.name.startswith("fastlane_rag-") else wheel for wheel in wheels]
    run(*pip, "install", "-q", "-c", constraints, *given, "langchain-classic", "pytest")
    run(*pip, "check")
    print(run(*pip, "list", "--format=freeze"))
    work.mkdir()
    for file in ("test_public_api.py", "public_api.txt"):
        shutil.copy(ROOT / "tests/packaging" / file, work)
    (work / "readme.py").write_text(readme_example())
    (work / "start.py").write_text("\n".join(blocks(ROOT / "docs/start.md")))
    where = "import fastlane_rag, langchain_fastlane, llama_index.retrievers.fastlane as third; "
    places = run(
        inside, "-c", f"{where}print(fastlane_rag.__file__, langchain_fastlane.__file__, third.__file__)", at=work
    )
    if any(not place.startswith(str(venv)) for place in places.split()):
        sys.exit(f"what is imported is not what was installed: {places}")
    print(run(inside, "readme.py", at=work))
    run(inside, "start.py", at=work)
    run(inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_public_api.py", at=work)
    print(f"{name}: the README's example, the first five minutes and the public names are in order", flush=True)


def floor() -> list[str]:
    """The versions of constraints.txt, with the older ones of constraints-floor.txt in their place, as constraints."""
    pins = {}
    for file in ("constraints.txt", "constraints-floor.txt"):
        text = (ROOT / file).read_text(encoding="utf-8")
        pins |= dict(re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.MULTILINE))
    return [f"{name}=={version}" for name, version in pins.items()]


def readme_example() -> str:
    """The first block of the README that needs nothing but what it says."""
    return next(block for block in blocks(ROOT / "README.md") if "from fastlane_rag import" in block)


def blocks(page: Path) -> list[str]:
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(*command: str | Path, at: Path | None = None) -> str:
    """What a command prints; where it fails, that ends the program."""
    done = subprocess.run(list(map(str, command)), cwd=at, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
