"""An exporter that lives on Celery's events, as the known ones do: ``python -m benchmarks.metrics_exporter PORT``.

It keeps Celery's own state of tasks and workers, which supplies the names that later events leave out, and
counts each event and each run time for Prometheus. Its broker comes with CELERY_BROKER_URL.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from celery import Celery
from prometheus_client import Counter, Histogram, start_http_server

MAX_TASKS = 10_000
"""That the state keeps, Celery's default."""

_EVENTS = Counter("events", "Events of tasks, by kind.", ["kind", "task", "worker"])
_RUN_SECONDS = Histogram("task_runtime_seconds", "Run time of tasks that succeeded.", ["task", "worker"])


def main(port: int) -> None:
    """Serve the metrics, and read events until the process is ended."""
    app = Celery(broker=os.environ["CELERY_BROKER_URL"])
    state = app.events.State(max_tasks_in_memory=MAX_TASKS)
    start_http_server(port, "127.0.0.1")

    def take(event: dict[str, Any]) -> None:
        state.event(event)
        if not event["type"].startswith("task-"):
            return
        task = state.tasks.get(event["uuid"])
        name = (task and task.name) or "unknown"
        _EVENTS.labels(event["type"], name, event["hostname"]).inc()
        if event["type"] == "task-succeeded":
            _RUN_SECONDS.labels(name, event["hostname"]).observe(event["runtime"])

    with app.connection_for_read() as connection:
        app.events.Receiver(connection, handlers={"*": take}).capture(limit=None, timeout=None, wakeup=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
