"""Tasks whose outcome is known by their number, for workers as ``celery -A benchmarks.metrics_tasks:app``."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import probe  # a worker with it reports when it is ready
from broker_app import BrokerApp

KNOWN = "benchmarks.known"
STARTED, AGAIN = "started", "started-again"
FAILED, RETRIED, EXPIRED = 3, 5, 7
"""The last digit of the number of a task that raises, that is retried once, and that comes too late."""

app = BrokerApp("exact", set_as_current=False)


@app.task(name=KNOWN, bind=True, ignore_result=True, max_retries=1)
def known(self: Any, number: int, published: float) -> None:
    """Write down the start and end as the number says.

    Args:
        self: The bound task.
        number: Of the task.
        published: The moment, by the benchmark's own clock.
    """
    is_first = not self.request.retries
    probe.write(STARTED if is_first else AGAIN, published, time.time())
    if number % 10 == FAILED:
        raise ValueError(number)
    if number % 10 == RETRIED and is_first:
        raise self.retry(countdown=0.5)
