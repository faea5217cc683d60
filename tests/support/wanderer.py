"""Tasks that retry or publish others, for workers that are started with ``-A workload -I wanderer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery.exceptions import Reject
from workload import app, note

app.conf.task_inherit_parent_priority = True


@app.task(bind=True)
def return_to_its_queue(self: Any, times: int, countdown: float) -> list[str]:
    """Retry into the queue that `delivery_info` names, `times` times; return its names."""
    info = self.request.delivery_info
    if self.request.retries < times:
        raise self.retry(queue=info["routing_key"], countdown=countdown)
    return [info["exchange"], info["routing_key"], info["queue"]]


@app.task(bind=True)
def retry_into(self: Any, queue: str) -> int | None:
    """Retry once into another queue, and return the priority that it came with there."""
    if not self.request.retries:
        raise self.retry(queue=queue, countdown=0.1)
    return self.request.delivery_info["priority"]  # type: ignore[no-any-return]


@app.task(bind=True)
def retry_at_once(self: Any) -> str:
    """Retry with a countdown that is over."""
    if not self.request.retries:
        raise self.retry(countdown=-3)
    return "retried"


@app.task(bind=True, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0.1)
def fail_once(self: Any) -> str:
    """Fail once; Celery's own option retries it."""
    if not self.request.retries:
        raise KeyError("once")
    return "retried"


@app.task(bind=True)
def fail_once_plainly(self: Any) -> str:
    """Fail once; its queue's back-off retries it."""
    if not self.request.retries:
        raise KeyError("once")
    return "retried"


@app.task(bind=True)
def priorities(self: Any, before: list[int | None]) -> list[int | None]:
    """Return the priorities of those before it in a chain, and its own."""
    return [*before, self.request.delivery_info["priority"]]


@app.task
def publish(queue: str) -> str:
    """Publish another task, and return its id."""
    return str(priorities.apply_async(([],), queue=queue).id)


@app.task(bind=True)
def give_back(self: Any, file: str, times: int) -> bool:
    """Return its message to its queue `times` times, then say whether it was marked as redelivered."""
    note(file, "run")
    if len(Path(file).read_text(encoding="utf-8").splitlines()) <= times:
        raise Reject("not now", requeue=True)
    return bool(self.request.delivery_info["redelivered"])
