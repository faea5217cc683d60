"""Memory usage of a worker and its pool processes."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.fleet.processes import all_processes

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC = Path("/proc")
_BYTES_PER_KIB = 1024


def memory_bytes(pids: Iterable[int]) -> dict[int, int]:
    """Return the memory of each process tree by its root's pid, without the processes that are unreadable.

    Shared pages of a pool are counted once (proc(5): ``Pss`` of ``smaps_rollup``, else ``VmRSS``).
    """
    children = defaultdict(list)
    for process in all_processes():
        children[process.parent].append(process.pid)
    found = {}
    for pid in pids:
        own = _own_bytes(pid)
        if own is not None:
            found[pid] = own + sum(_own_bytes(child) or 0 for child in _below(pid, children))
    return found


def _below(pid: int, children: dict[int, list[int]]) -> list[int]:
    direct = children.get(pid, [])
    return [*direct, *(deeper for child in direct for deeper in _below(child, children))]


def _own_bytes(pid: int) -> int | None:
    for file, name in (("smaps_rollup", "Pss"), ("status", "VmRSS")):
        try:
            match = re.search(rf"^{name}:\s+(\d+) kB", (_PROC / str(pid) / file).read_text(), re.MULTILINE)
        except OSError:  # it ended, belongs to another user, or /proc does not exist
            continue
        if match:
            return int(match.group(1)) * _BYTES_PER_KIB
    return None
