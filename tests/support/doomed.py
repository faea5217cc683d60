"""Tasks that end badly, for workers that are started with ``-A workload -I doomed``."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery.exceptions import Ignore, Reject
from workload import app, note

from broker_app.queues import Backoff


@app.task
def kill(file: str, text: str) -> None:
    """Note its start, then end its process as the out-of-memory killer does."""
    note(file, text)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def note_and_last(file: str, text: str, seconds: float) -> str:
    """Note its start, then wait."""
    note(file, text)
    time.sleep(seconds)
    return text


@app.task
def reject(words: str) -> None:
    """Reject its message without requeueing."""
    raise Reject(words, requeue=False)


@app.task
def ignore() -> None:
    """Leave without a result."""
    raise Ignore


@app.task(time_limit=1)
def outlast_its_limit() -> None:
    """Run longer than it may."""
    time.sleep(60)


@app.task
def fail_at_length(characters: int) -> None:
    """Fail with a long message."""
    raise ValueError("x" * characters)


@app.task
def want_too_much() -> None:
    """Ask for more memory than there is."""
    raise MemoryError("no more")


@app.task(ignore_result=True)
def fail_unheard() -> None:
    """Fail with a result that is never read."""
    raise ValueError("unheard")


@app.task(acks_late=False)
def fail_early() -> None:
    """Fail after its message was acknowledged."""
    raise ValueError("early")


@app.task
def fail_until(file: str, times: int) -> int:
    """Fail this many times, then return how often it ran."""
    note(file, "run")
    with open(file, encoding="utf-8") as lines:  # noqa: PTH123 - shorter
        runs = len(lines.readlines())
    if runs <= times:
        raise ConnectionError("not yet")
    return runs


@app.task(backoff=Backoff(max_retries=2, first_seconds=0.6, has_jitter=False))
def fail_twice_itself(file: str) -> int:
    """Fail twice; its own back-off carries it over."""
    return int(fail_until.run(file, 2))


@app.task(autoretry_for=(ConnectionError,), max_retries=1, default_retry_delay=1)
def fail_as_celery_has_it(file: str) -> None:
    """Fail always; Celery's own option retries it once."""
    note(file, "run")
    raise ConnectionError("for ever")


@app.task(bind=True, max_retries=1)
def retry_by_hand(self: Any, file: str) -> None:
    """Fail always; retry once by its own call."""
    note(file, "run")
    raise self.retry(exc=ConnectionError("for ever"), countdown=1)


@app.task(throws=(LookupError,))
def fail_as_expected(file: str) -> None:
    """Fail with an error that it is known to raise."""
    note(file, "run")
    raise LookupError("expected")


@app.task
def remember(request: Any, error: Any, traceback: Any, file: str) -> None:
    """As an errback: note which error it was called with."""
    del request, traceback
    note(file, type(error).__name__)
