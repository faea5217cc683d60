"""Workers as processes, as an operator starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.probe import READY, RECORD_VARIABLE
from benchmarks.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.record import Record

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOG_LINES = 10


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
def running_worker(app: str, url: str, record: Record, queues: str, slots: int) -> Iterator[Worker]:
    """Start a worker with a thread pool, wait until it is ready, and stop it at the end of the block.

    Args:
        app: An app of `benchmarks.apps`.
        url: Of the broker.
        record: Where its tasks write; several workers may share one.
        queues: As Celery's ``-Q``.
        slots: As Celery's ``-c``.

    Raises:
        RuntimeError: It ended while starting; the text ends with its log's last lines.
        TimeoutError: It is not ready in time.
    """
    earlier = len(record.starts(READY))
    log = record.path.with_name(f"{record.path.name}.{app}.{queues}.log")
    process = _start(app, url, record, log, queues, slots)
    try:

        def is_ready() -> bool:
            if process.poll() is not None:
                tail = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise RuntimeError(f"worker of {app} ended while it started: {' | '.join(tail)}")
            return len(record.starts(READY)) > earlier

        wait_for(is_ready, _READY_SECONDS, lambda: f"a ready worker of {app}; its log is {log}")
        yield Worker(process.pid, record)
    finally:
        _stop(process)


def worker_environment(url: str, record: Path) -> dict[str, str]:
    """Return the caller's environment without settings of ours, so that the shipped ones are measured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_APP_", "CELERY_"))}
    return kept | {
        "CELERY_BROKER_URL": url,  # not as -b: a command line is public
        RECORD_VARIABLE: str(record),
        "BROKER_APP_STATE_DIR": str(record.parent / "state"),
    }


def _start(app: str, url: str, record: Record, log: Path, queues: str, slots: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", f"benchmarks.apps:{app}", "worker", "-l", "WARNING"]
    command += ["-P", "threads", "-c", str(slots), "-Q", queues, "-n", f"{app}.{queues}@localhost"]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=worker_environment(url, record.path),
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
