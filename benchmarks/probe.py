"""The task that is measured: it writes down when it started."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

from celery.signals import worker_ready

from broker_app.queues.headers import PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from celery import Celery
    from celery.result import AsyncResult

TASK = "benchmarks.probe"
MEMBER, BODY = "benchmarks.member", "benchmarks.body"
"""The tasks of chords, which store their results."""

READY = "ready"
RECORD_VARIABLE = "BENCHMARK_RECORD"
"""The file that a worker appends to: a line for each start, ``label since started``, times since the epoch."""

COROUTINES_VARIABLE = "BENCHMARK_COROUTINES"
"""Set where the probe is an ``async def``."""

_App = TypeVar("_App", bound="Celery")


def probe(self: Any, label: str, due: float | None = None, sleep_seconds: float = 0.0) -> None:
    """Write down this start, and wait as long as asked.

    Args:
        self: The bound task, for the moment of publishing in its headers.
        label: What the start is counted under.
        due: When it should start; None for the moment of publishing.
        sleep_seconds: How long its work is to wait.
    """
    started = time.time()
    write(label, self.request.get(PUBLISHED_AT_HEADER) if due is None else due, started)
    if sleep_seconds:
        time.sleep(sleep_seconds)


async def coroutine(self: Any, label: str, due: float | None = None, sleep_seconds: float = 0.0) -> None:
    """Do what `probe` does, and wait in the event loop; the arguments are the same."""
    probe(self, label, due)
    if sleep_seconds:
        await asyncio.sleep(sleep_seconds)


def member(number: int) -> int:
    """Return the number."""
    return number


def body(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)


def install(app: _App) -> _App:
    """Return the app, with the probe as a task that ignores its result, and the tasks of chords."""
    function = coroutine if COROUTINES_VARIABLE in os.environ else probe
    app.task(name=TASK, bind=True, ignore_result=True)(function)
    app.task(name=MEMBER)(member)
    app.task(name=BODY)(body)
    return app


def send(app: Celery, *args: Any, **options: Any) -> AsyncResult:
    """Call `apply_async` of the app's probe with the moment of publishing in the headers.

    Args:
        app: Ours or plain Celery; ours writes the same header itself.
        *args: The probe's.
        **options: Of `apply_async`.
    """
    return app.tasks[TASK].apply_async(args, headers={PUBLISHED_AT_HEADER: time.time()}, **options)


@worker_ready.connect
def _write_ready(**_: Any) -> None:
    write(READY, 0.0, time.time())


def write(label: str, since: float, started: float) -> None:
    """Append a line in one system call: other threads and processes append to the same file."""
    os.write(_record(), f"{label} {since!r} {started!r}\n".encode())


@functools.cache
def _record() -> int:
    return os.open(os.environ[RECORD_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
