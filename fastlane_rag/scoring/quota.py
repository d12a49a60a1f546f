"""How many processors a container may use: its cgroup's quota, which the number of cores does not show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["cpu_quota", "read_quota"]


@cache
def cpu_quota() -> float | None:
    """Processors that this process may use on average, by its cgroup; None without a limit. Read once."""
    return read_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))


def read_quota(membership: Path, root: Path) -> float | None:
    """The smallest quota of a process's cgroup and of those around it, of version 1 or 2, in processors.

    Args:
        membership: the file that lists the process's cgroups, /proc/self/cgroup.
        root: where cgroups are mounted.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux, or closed
        return None
    found: list[float] = []
    for line in lines:
        _, names, path = line.split(":", 2)
        if not names:
            found += _along(root, path, _second_version)
        elif "cpu" in names.split(","):
            # Containers that have no cgroup namespace see the host's path, and only their own mount.
            for mount in (root / names, root / "cpu"):
                found += _along(mount, path, _first_version)
    return min(found, default=None)


def _along(mount: Path, path: str, read: Callable[[Path], float]) -> list[float]:
    """The quotas of a cgroup and of all around it."""
    place = mount / path.strip("/")
    places = [place, *(one for one in place.parents if one.is_relative_to(mount))]
    found = []
    for one in places:
        with suppress(OSError, ValueError):
            found.append(read(one))
    return found


def _second_version(group: Path) -> float:
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)  # "max" is no number


def _first_version(group: Path) -> float:
    quota = int((group / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        raise ValueError("no limit")
    return quota / int((group / "cpu.cfs_period_us").read_text())
