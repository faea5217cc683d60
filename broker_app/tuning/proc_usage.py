"""Resource usage of a worker's processes, read from /proc (proc(5)); tuning requires Linux."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.errors import TuningError
from broker_app.tuning.measurement import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM, _THREADS = 1, 11, 12, 17
"""Positions of fields in /proc/<pid>/stat after the name; the state is 0."""

_IDLE = slice(3, 5)
"""idle and iowait in the first line of /proc/stat."""


@dataclass(frozen=True, slots=True)
class UsageSample:
    """Counters of a worker and its host at one point in time.

    Attributes:
        seconds: CPU seconds used so far, by pid.
        host_idle: Idle seconds of all the host's cores so far.
        host_total: Total seconds of all the host's cores so far.
    """

    seconds: dict[int, float]
    host_idle: float
    host_total: float


def check_proc() -> None:
    """Raise an error if this system has no /proc.

    Raises:
        TuningError: There is no /proc.
    """
    if not (_PROC / "self" / "stat").exists():
        raise TuningError("expected /proc, the source of CPU and memory figures, got none; tune on Linux")


def sample(main: int) -> UsageSample:
    """Return the counters of a process and all its descendants."""
    seconds = {}
    for pid in family(main):
        if fields := _stat(pid):
            seconds[pid] = (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS
    ticks = [int(word) for word in (_PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    return UsageSample(seconds, sum(ticks[_IDLE]) / _TICKS, sum(ticks) / _TICKS)


def usage_between(main: int, before: UsageSample, after: UsageSample, elapsed_seconds: float) -> Usage:
    """Return the usage between two samples; memory, threads and descriptors are current values."""
    used = {pid: seconds - before.seconds.get(pid, 0.0) for pid, seconds in after.seconds.items()}
    pids = tuple(after.seconds)
    busy = (after.host_total - before.host_total) - (after.host_idle - before.host_idle)
    return Usage(
        cpu_cores=sum(used.values()) / elapsed_seconds,
        main_cpu_cores=used.get(main, 0.0) / elapsed_seconds,
        host_busy_cores=busy / elapsed_seconds,
        cores=cores(),
        memory_bytes=sum(map(_memory_bytes, pids)),
        processes=len(pids),
        threads=sum(int(fields[_THREADS]) for pid in pids if (fields := _stat(pid))),
        descriptors=sum(map(_descriptors, pids)),
    )


def others_busy_cores(seconds: float) -> float:
    """Return how many of this host's cores other programs keep busy, sampled for some seconds."""
    before, begin = sample(os.getpid()), time.monotonic()
    time.sleep(seconds)
    used = usage_between(os.getpid(), before, sample(os.getpid()), time.monotonic() - begin)
    return max(0.0, used.host_busy_cores - used.cpu_cores)


def mean_usage(usages: Sequence[Usage]) -> Usage:
    """Return the mean of the CPU figures and the maximum of the others."""
    count, last = len(usages), usages[-1]
    return Usage(
        cpu_cores=sum(usage.cpu_cores for usage in usages) / count,
        main_cpu_cores=sum(usage.main_cpu_cores for usage in usages) / count,
        host_busy_cores=sum(usage.host_busy_cores for usage in usages) / count,
        cores=last.cores,
        memory_bytes=max(usage.memory_bytes for usage in usages),
        processes=max(usage.processes for usage in usages),
        threads=max(usage.threads for usage in usages),
        descriptors=max(usage.descriptors for usage in usages),
    )


def cores() -> int:
    """Return the number of cores that this process and its workers may use."""
    return len(os.sched_getaffinity(0))


def available_bytes() -> int:
    """Return the available memory in bytes, of the host or of this container, whichever is less."""
    lines = dict(line.split(":", 1) for line in (_PROC / "meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        most, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no limit: the file says "max"
        return free
    return min(free, most - used)


def family(main: int) -> list[int]:
    """Return the pids of a process and all its descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid in _pids():
        if fields := _stat(pid):
            children[int(fields[_PARENT])].append(pid)
    found, waiting = [], [main]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children[pid]
    return found


def _pids() -> Iterable[int]:
    return [int(folder.name) for folder in _PROC.iterdir() if folder.name.isdecimal()]


def _stat(pid: int) -> list[str]:
    """Return the fields after the name, which may contain spaces and parentheses; empty if the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _memory_bytes(pid: int) -> int:
    """Return the proportional set size, in which shared pages are divided among the processes that use them."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # gone, or hidden from us
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _descriptors(pid: int) -> int:
    try:
        return sum(1 for _ in (_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return 0
