"""Task log writer, inside the tuned worker: uses Celery signals to write a line for each run of a task.

The worker is an ordinary ``celery worker``; `BOOTSTRAP` does the same as `python -m celery` and calls `install`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import time
from typing import Any

from celery import shared_task, signals, states

from broker_app.queues.headers import PUBLISHED_AT_HEADER
from broker_app.settings.private_files import open_private
from broker_app.tuning.load import SIMULATED_TASK, simulate, simulate_in_loop

BOOTSTRAP = (
    "import sys; record = sys.argv.pop(1)\n"
    "from celery import maybe_patch_concurrency; maybe_patch_concurrency()\n"  # gevent: before all other imports
    "from broker_app.tuning.task_log_writer import install; install(record)\n"
    "from celery.bin.celery import main; sys.exit(main())"
)
"""Program for ``python -c``; its first argument is the log file, the others are those of `celery`."""

READY, RAN, FAILED = "ready", "ran", "failed"
"""First word of a line; ``ran`` is followed by the times of publishing, start and end."""

_PR_SET_PDEATHSIG = 1
_started: dict[str, float] = {}


def install(path: str) -> None:
    """Log this process's tasks, and end it when its parent is gone."""
    _end_with_parent()
    _file.cache_clear()
    os.environ["TUNING_RECORD"] = path
    shared_task(name=SIMULATED_TASK)(simulate_in_loop if "--pool=asyncio" in sys.argv else simulate)
    signals.worker_ready.connect(_on_ready, weak=False)
    signals.task_prerun.connect(_on_start, weak=False)
    signals.task_postrun.connect(_on_end, weak=False)
    signals.task_failure.connect(_on_failure, weak=False)
    signals.task_retry.connect(_on_retry, weak=False)


def _on_ready(**_: Any) -> None:
    _write(READY)


def _on_start(task_id: str, **_: Any) -> None:
    _started[task_id] = time.time()


def _on_end(task_id: str, task: Any, state: str | None = None, **_: Any) -> None:
    ended, started = time.time(), _started.pop(task_id, None)
    published = task.request.get(PUBLISHED_AT_HEADER)
    if started is not None and published is not None and state == states.SUCCESS:
        _write(f"{RAN} {published!r} {started!r} {ended!r}")


def _on_failure(sender: Any, exception: BaseException, **_: Any) -> None:
    _write(f"{FAILED} {sender.name} raised {type(exception).__name__}: {_one_line(exception)}")


def _on_retry(sender: Any, reason: Any, **_: Any) -> None:
    _write(f"{FAILED} {sender.name} requested a retry: {_one_line(reason)}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _write(line: str) -> None:
    """Append a line in one system call, because other threads and processes append to the same file."""
    os.write(_file(), f"{line}\n".encode(errors="replace"))


@functools.cache
def _file() -> int:
    return open_private(os.environ["TUNING_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _end_with_parent() -> None:
    """Have the kernel end this worker if its parent is killed (prctl(2)); on other systems the next run does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
