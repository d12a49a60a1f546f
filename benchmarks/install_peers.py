"""Creates environments for the engines to compare with, and records what could not be installed.

python benchmarks/install_peers.py --into ~/.cache/fastlane-peers
python benchmarks/install_peers.py --into DIR --venv plaid=OTHER_DIR   # a group's environment somewhere else

Each file of benchmarks/requirements/ becomes an environment. If a package cannot be installed or imported, the others
still are; DIR/peers.json, which the benchmarks read, has the error. A second run installs what is missing.
"""

import argparse
import json
import re
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "benchmarks" / "requirements"
BESIDE_OURS = ("scorers",)
"""Groups whose environment has fastlane-rag too."""

MODULES = {"fast-plaid": "fast_plaid.search", "xtr-warp-rs": "xtr_warp"}
"""The module to import, where it is not the package's name with underscores."""

_TOLD_LINES = 6


def requirements(path: Path) -> list[str]:
    """The lines of a requirements file, without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def name_of(requirement: str) -> str:
    """The distribution a requirement names."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    if match is None:
        raise ValueError(f"{requirement!r} names no package")
    return match[0]


def pip(python: Path, *arguments: str) -> str | None:
    """Run `pip install`. Returns None, or the last lines of pip's output if it failed."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return None if done.returncode == 0 else last_lines(done.stderr or done.stdout)


def last_lines(text: str) -> str:
    """The end of a message, where its cause is."""
    return "\n".join(text.strip().splitlines()[-_TOLD_LINES:])


def check(python: Path, package: str) -> dict[str, Any]:
    """The version that the environment imports, or why it does not."""
    module = MODULES.get(package, package.replace("-", "_"))
    code = f"import {module}; from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return {"version": done.stdout.split()[-1]}
    ending = f"ended with {done.returncode}: " if done.returncode < 0 else ""
    return {"error": ending + last_lines(done.stderr)}


def install(group: str, folder: Path) -> dict[str, Any]:
    """Create one group's environment, as far as possible.

    Returns:
        Its interpreter, and `version` or `error` of each package.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.is_file():
        venv.create(folder, with_pip=True)
    wanted = requirements(REQUIREMENTS / f"{group}.txt")
    if group in BESIDE_OURS and (error := pip(python, "-c", "constraints.txt", "-e", ".[cpu,eval]")):
        return {"python": str(python), "packages": {name_of(one): {"error": error} for one in wanted}}
    errors: dict[str, str] = {}
    if pip(python, *wanted):  # install one by one, to find the package that fails
        for one in wanted:
            if error := pip(python, one):
                errors[name_of(one)] = error
    names = [name_of(one) for one in wanted]
    packages = {name: {"error": errors[name]} if name in errors else check(python, name) for name in names}
    return {"python": str(python), "packages": packages}


def main() -> int:
    """Install, print, and write the record; 1 where something is missing."""
    groups = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, required=True, help="folder of the environments and of peers.json")
    parser.add_argument("--only", nargs="+", choices=groups, default=groups, help="groups to install")
    parser.add_argument("--venv", action="append", default=[], metavar="GROUP=DIR", help="a group's own place")
    arguments = parser.parse_args()
    if find_spec("pip") is None:
        parser.error("this Python has no pip; run the script with one that has")
    places = dict(one.split("=", 1) for one in arguments.venv)
    record_path = arguments.into / "peers.json"
    record = json.loads(record_path.read_text()) if record_path.is_file() else {}
    arguments.into.mkdir(parents=True, exist_ok=True)
    for group in arguments.only:
        folder = Path(places.get(group, arguments.into / group)).absolute()
        record[group] = install(group, folder)
        record_path.write_text(json.dumps(record, indent=1) + "\n")
        for name, found in record[group]["packages"].items():
            print(f"{group:10}{name:28}{found.get('version') or 'NOT INSTALLED: ' + found['error']}", flush=True)
    return int(any("error" in one for group in record.values() for one in group["packages"].values()))


if __name__ == "__main__":
    sys.exit(main())
