"""A container's CPU quota, of both versions of cgroups, and threads that follow it."""

import os
import subprocess
import sys

import pytest

from fastlane_rag.scoring.quota import cpu_quota, read_quota


@pytest.fixture
def machine(tmp_path):
    """Writes what a machine shows of its cgroups."""

    def write(membership, **files):
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "root" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return read_quota(tmp_path / "membership", tmp_path / "root")

    return write


def test_version_2_in_a_container(machine):
    assert machine("0::/\n", cpu_DOT_max="150000 100000\n") == 1.5


def test_version_2_takes_the_smallest_on_the_way_up(machine):
    limits = {"pod__cpu_DOT_max": "200000 100000\n", "pod__app__cpu_DOT_max": "max 100000\n"}
    assert machine("0::/pod/app\n", **limits) == 2.0


@pytest.mark.parametrize("names", ["cpu,cpuacct", "cpu"])
def test_version_1(machine, names):
    files = {
        f"{names}__docker__abc__cpu.cfs_quota_us": "50000\n",
        f"{names}__docker__abc__cpu.cfs_period_us": "100000\n",
    }
    assert machine(f"4:memory:/docker/abc\n3:{names}:/docker/abc\n0::/\n", **files) == 0.5


def test_version_1_whose_path_is_the_hosts(machine):
    """Without a namespace the container sees the host's path, and its own files at the mount's top."""
    files = {"cpu__cpu.cfs_quota_us": "300000\n", "cpu__cpu.cfs_period_us": "100000\n"}
    assert machine("3:cpu,cpuacct:/docker/abc\n", **files) == 3.0


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", {"cpu_DOT_max": "max 100000\n"}),
        ("0::/\n", {}),
        ("3:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}),
        ("0::/\n", {"cpu_DOT_max": "rubbish\n"}),
    ],
    ids=["max", "no-file", "version-1", "rubbish"],
)
def test_no_limit(machine, membership, files):
    assert machine(membership, **files) is None


def test_a_system_without_cgroups(tmp_path):
    assert read_quota(tmp_path / "absent", tmp_path) is None


def threads(program: str, **environment: str) -> list[int]:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | environment
    prelude = "import torch\ntorch.set_num_threads(6)\nfrom fastlane_rag.scoring import quota, threads\n"
    done = subprocess.run([sys.executable, "-c", prelude + program], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


LIMITED = "threads.cpu_quota = lambda: 1.5\n"


def test_threads_follow_the_quota_once():
    """1.5 processors feed two threads; a number that is set later stands."""
    program = LIMITED + (
        "print(threads.get_threads(), torch.get_num_threads())\n"
        "torch.set_num_threads(5)\nprint(threads.get_threads())\n"
        "threads.set_threads(3)\nprint(threads.get_threads())"
    )
    assert threads(program) == [2, 2, 5, 3]


def test_a_number_in_the_environment_stands():
    assert threads(LIMITED + "print(threads.get_threads())", OMP_NUM_THREADS="4") == [6]


def test_without_a_quota_torch_decides():
    assert threads("threads.cpu_quota = lambda: None\nprint(threads.get_threads())") == [6]


def test_this_machine_can_be_asked():
    quota = cpu_quota()
    assert quota is None or quota > 0
