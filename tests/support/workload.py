"""An app with tasks that do what tests need: fail, retry, wait. Workers run it as ``celery -A workload``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from amqp.exceptions import ConsumerCancelled
from celery.signals import worker_ready

from broker_app import BrokerApp
from broker_app.broker.access import connect
from broker_app.broker.declare import delete_queue
from broker_app.publishing import trace_context
from broker_app.tuning.load import simulate

app = BrokerApp("workload", set_as_current=False, include=["broker_app.tasks"])


@worker_ready.connect
def miss_a_deletion(sender: Any, **_: Any) -> None:
    """Delete the queue that the environment names, and drop the broker's word of it, as Celery's loop can."""
    queue = os.environ.pop("WORKLOAD_MISS_DELETION", None)
    if not queue:
        return
    with connect(app) as connection:
        delete_queue(connection, queue)
    try:
        while True:
            sender.connection.drain_events(timeout=60)
    except ConsumerCancelled:
        return


@app.task
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@app.task
def mul(x: int, y: int) -> int:
    """Return the product."""
    return x * y


@app.task
def xsum(numbers: list[int]) -> int:
    """Return the sum of a list."""
    return sum(numbers)


@app.task
def fail(text: str) -> None:
    """Raise a ValueError."""
    raise ValueError(text)


@app.task(bind=True, max_retries=3)
def retry_twice(self: Any, countdown: float) -> dict[str, Any]:
    """Retry two times with a countdown, then return its path through the broker."""
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return {"retries": self.request.retries, "key": self.request.delivery_info["routing_key"]}


@app.task
def note(file: str, text: str) -> float:
    """Append a line to a file, and return the moment."""
    moment = time.time()
    with Path(file).open("a", encoding="utf-8") as lines:
        lines.write(f"{text}\n")
    return moment


@app.task
def note_wait(file: str, published: float) -> None:
    """Append to a file how long ago that moment is."""
    note(file, repr(time.time() - published))


@app.task
def note_and_wait(file: str, seconds: float) -> None:
    """Append a line to a file, and then wait."""
    note(file, "started")
    time.sleep(seconds)


@app.task
def hold(file: str) -> None:
    """Run until a file exists."""
    while not Path(file).exists():
        time.sleep(0.05)


@app.task(ignore_result=True)
def wait_and_compute(wait_seconds: float, cpu_seconds: float) -> None:
    """Wait, and then use the processor for so long."""
    simulate(wait_seconds, cpu_seconds, 0.0)


@app.task
def publish_from_worker(x: int, y: int) -> str:
    """Publish a task from within a task, and return its id."""
    return str(add.apply_async((x, y), queue="lopri").id)


@app.task(bind=True, max_retries=None)
def retry_along(
    self: Any, countdowns: list[float], seen: list[dict[str, Any]] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Retry once for each countdown with these options, and return what each run found in its message."""
    headers = {name: value for name, value in (self.request.headers or {}).items() if name.startswith("x-")}
    facts = dict(self.request.delivery_info, headers=headers)
    found = [*(seen or []), facts]
    if countdowns:
        raise self.retry(args=(countdowns[1:], found), countdown=countdowns[0], **options)
    return found


@app.task
def publish_wrongly() -> None:
    """Publish to an undeclared queue."""
    add.apply_async((1, 1), queue="lopri_typo")


@app.task(bind=True)
def priority_of(self: Any, *_results: Any) -> int:
    """Return the priority that the task came with."""
    return int(self.request.delivery_info["priority"])


@app.task
def traceparent() -> str | None:
    """Return the trace that the task runs in, as the task would hand it on itself."""
    headers: dict[str, Any] = {}
    trace_context.inject(headers)
    return headers.get("traceparent")
