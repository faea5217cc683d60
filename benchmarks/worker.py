"""Workers as processes, as an operator starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.probe import READY, RECORD_VARIABLE
from benchmarks.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.record import Record

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOG_LINES = 10
_THREADS = ("-P", "threads")


@dataclass(frozen=True, slots=True)
class Worker:
    """One running ``celery worker``.

    Attributes:
        pid: Of its main process.
        record: What it writes down.
    """

    pid: int
    record: Record

    def resident_bytes(self) -> int:
        """Return the resident memory of its process (proc(5), VmRSS); with threads that is all of it."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def running_worker(
    app: str, url: str, record: Record, queues: str, slots: int | None, options: Sequence[str] = _THREADS
) -> Iterator[Worker]:
    """Start a worker, wait until it is ready, and stop it at the end of the block.

    Args:
        app: An app of `benchmarks.apps`.
        url: Of the broker.
        record: Where its tasks write; several workers may share one.
        queues: As Celery's ``-Q``.
        slots: As Celery's ``-c``; None for what Celery chooses.
        options: More of Celery's options.

    Raises:
        RuntimeError: It ended while starting; the text ends with its log's last lines.
        TimeoutError: It is not ready in time.
    """
    earlier = len(record.starts(READY))
    log = record.path.with_name(f"{record.path.name}.{app}.{queues}.log")
    command = ["celery", "-A", f"benchmarks.apps:{app}", "worker", "-l", "WARNING"]
    command += ["-Q", queues, "-n", f"{app}.{queues}@localhost", *options]
    command += [] if slots is None else ["-c", str(slots)]
    process = _start(command, worker_environment(url, record.path), log)
    try:
        wait_for_ready([process], record, log, earlier + 1)
        yield Worker(process.pid, record)
    finally:
        _stop(process)


def worker_environment(url: str, record: Path) -> dict[str, str]:
    """Return the caller's environment without settings of ours, so that the shipped ones are measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_APP_", "CELERY_"))}
    return kept | {
        "CELERY_BROKER_URL": url,  # not as -b: a command line is public
        "BROKER_APP_BROKER_URL": url,  # broker-app refuses to start if the two differ
        RECORD_VARIABLE: str(record),
        "BROKER_APP_STATE_DIR": str(record.parent / "state"),
    }


@contextmanager
def running_commands(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], record: Record, ready: int
) -> Iterator[list[int]]:
    """Start all at once, wait until they are ready, and stop them at the end of the block.

    Args:
        commands: Modules and their arguments, as behind ``python -m``.
        environment: Of all.
        record: Where they write that they are ready.
        ready: How many times in all they do.

    Yields:
        Their sessions, of the processes that they start too; see `session_cpu_seconds`.

    Raises:
        RuntimeError, TimeoutError: As `running_worker`.
    """
    log = record.path.with_name(f"{record.path.name}.log")
    processes = [_start(command, environment, log) for command in commands]
    try:
        wait_for_ready(processes, record, log, ready)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _stop(process)


def session_cpu_seconds(sessions: Sequence[int]) -> float:
    """Return user and system time of all processes of some sessions (proc(5): fields 6, 14 and 15 of stat)."""
    ticks = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):  # it has just ended
                fields = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) in sessions else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_for_ready(processes: Sequence[subprocess.Popen[bytes]], record: Record, log: Path, ready: int) -> None:
    """Wait until a record has this many entries of ready workers.

    Raises:
        RuntimeError: A process ended instead.
        TimeoutError: It does not in time.
    """

    def is_ready() -> bool:
        if any(process.poll() is not None for process in processes):
            tail = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise RuntimeError(f"a worker ended while it started: {' | '.join(tail)}")
        return len(record.starts(READY)) >= ready

    wait_for(is_ready, _READY_SECONDS, lambda: f"a ready worker; its log is {log}")


def _start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt from the keyboard is for us; we stop it
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it: in order if it can within a bound, for it may hold 50,000 tasks; what it leaves is thrown away."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
