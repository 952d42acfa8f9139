"""Processor time of other processes, which tells a cost where walls move with the neighbours."""

import multiprocessing
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

TICKS = 100
"""A second, as the kernel counts for /proc."""


def is_known() -> bool:
    """Whether this system tells it."""
    return Path("/proc/self/stat").exists()


def seconds_of(pids: Iterable[int]) -> float:
    """What these processes have used so far."""
    return sum(int(user) + int(system) for user, system in map(_times, pids)) / TICKS


def family_seconds(pid: int) -> float:
    """What a process, its children and those of them that ended have used so far."""
    fields = _fields(pid)
    ended = sum(int(each) for each in fields[11:15]) / TICKS if fields else 0
    return ended + seconds_of(
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _fields(int(folder.name))[1:2] == [str(pid)]
    )


def parent_of(pid: int) -> int | None:
    """The process that started it; None where that cannot be told."""
    fields = _fields(pid)
    return int(fields[1]) if fields else None


def children_named(name: str) -> list[int]:
    """The child process of that name, and all that it started."""
    parents: defaultdict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _fields(int(folder.name))):
            parents[int(fields[1])].append(int(folder.name))
    waiting = [each.pid for each in multiprocessing.active_children() if each.name == name]
    found: list[int] = []
    while waiting:
        pid = waiting.pop()
        if pid is not None:
            found.append(pid)
            waiting += parents[pid]
    return found


def _times(pid: int) -> tuple[str, str]:
    fields = _fields(pid)
    return (fields[11], fields[12]) if fields else ("0", "0")


def _fields(pid: int) -> list[str]:
    """What follows the name, from the state on; nothing once the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
