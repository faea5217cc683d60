"""Coroutines that overlap and look at their request: ``celery -A benchmarks.interleaved_tasks:app``."""

from __future__ import annotations

import asyncio
from typing import Any

from celery import current_task

from benchmarks import probe  # a worker with it reports when it is ready
from broker_app import BrokerApp

INTERLEAVED = "benchmarks.interleaved"
RIGHT, WRONG = "right", "wrong"

app = BrokerApp("interleaved", set_as_current=False)


@app.task(name=INTERLEAVED, bind=True, ignore_result=True)
async def interleaved(self: Any, number: int) -> None:
    """Write down the number, and whether each look at the request showed its own id, which is the number.

    Args:
        self: The bound task.
        number: Of the task; it decides how long the task waits between its looks.
    """
    seen = [self.request.id]
    await asyncio.sleep(number % 7 / 1000)
    seen.append(current_task.request.id)
    seen += await asyncio.gather(_seen_by_a_child(self), _seen_by_a_child(self))
    await asyncio.sleep(0)
    seen.append(self.request.args[0])
    probe.write(RIGHT if {str(one) for one in seen} == {str(number)} else WRONG, number, 0.0)


async def _seen_by_a_child(task: Any) -> str:
    await asyncio.sleep(0)
    seen: str = task.request.id
    return seen
