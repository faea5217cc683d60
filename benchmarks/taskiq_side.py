"""taskiq's side: a task that its workers find as ``taskiq worker benchmarks.taskiq_side:broker``."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from taskiq import TaskiqEvents
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from benchmarks.fleets import QOS_VARIABLE, URL_VARIABLE
from benchmarks.probe import READY, write
from benchmarks.topologies import QUEUE


def make_broker(url: str) -> Any:
    """Return taskiq's broker on a quorum queue."""
    options = {"qos": int(os.environ[QOS_VARIABLE])} if QOS_VARIABLE in os.environ else {}
    return AioPikaBroker(url, task_queues=[Queue(name=QUEUE, type=QueueType.QUORUM, declare=True)], **options)


async def started(label: str, sleep_seconds: float = 0.0) -> None:
    """Write down this start, and wait as long as asked."""
    write(label, 0.0, time.time())
    if sleep_seconds:
        await asyncio.sleep(sleep_seconds)


def _make_workers_broker() -> Any:
    made = make_broker(os.environ.get(URL_VARIABLE, ""))
    made.task(task_name="started", queue_name=QUEUE)(started)

    @made.on_event(TaskiqEvents.WORKER_STARTUP)
    async def announce(_state: Any) -> None:
        write(READY, 0.0, time.time())

    return made


broker = _make_workers_broker()
