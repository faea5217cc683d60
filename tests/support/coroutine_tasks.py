"""Tasks that are coroutines; workers load them with ``-A workload -I coroutine_tasks``."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.exceptions import SoftTimeLimitExceeded
from workload import app, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def current_id() -> Any:
    """Return the id of the current task."""
    return current_task.request.id


@app.lifespan
async def lifespan() -> AsyncIterator[str]:
    """Yield a state."""
    await asyncio.sleep(0)
    yield "open"


@app.task(bind=True)
async def state(self: Any) -> Any:
    """Return the state."""
    await asyncio.sleep(0)
    return self.state


@app.task(bind=True)
async def ids(self: Any) -> list[Any]:
    """Return the ids that a coroutine, and what it starts, see between others."""
    await asyncio.sleep(0.05)
    inner = asyncio.create_task(asyncio.to_thread(current_id))
    return [self.request.id, current_id(), await inner]


@app.task
def run_by_itself() -> bool:
    """Run a coroutine in a loop of its own, in a plain task; return whether another loop seemed to run before."""
    seen = asyncio._get_running_loop() is not None
    asyncio.run(asyncio.sleep(0.05))
    return seen


@app.task
async def apply_inside() -> Any:
    """Run another coroutine in a loop of its own, and go on."""
    inner = state.apply().get(disable_sync_subtasks=False)
    await asyncio.sleep(0.01)
    return [inner, await asyncio.to_thread(asyncio._get_running_loop)]


@app.task
async def publish_inside() -> Any:
    """Publish tasks and wait for their results."""
    results = await asyncio.gather(*(app.tasks["workload.add"].adelay(number, 1) for number in range(10)))
    return await asyncio.gather(*(result.aget(timeout=60, disable_sync_subtasks=False) for result in results))


@app.task(ignore_result=True)
async def write(file: str) -> None:
    """Note a run."""
    await asyncio.sleep(0)
    note(file, "ran")


@app.task
async def block(file: str) -> None:
    """Block the loop until a file exists."""
    hold(Path(file))


def hold(file: Path) -> None:
    """Return when a file exists."""
    while not file.exists():
        time.sleep(0.05)


@app.task(bind=True)
async def retry_by_hand(self: Any) -> int:
    """Retry once."""
    await asyncio.sleep(0)
    if not self.request.retries:
        await self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0)
async def retry_itself(self: Any) -> int:
    """Fail once."""
    await asyncio.sleep(0)
    if not self.request.retries:
        raise ConnectionError
    return int(self.request.retries)


@app.task
async def leave() -> None:
    """Raise what is not an Exception."""
    await asyncio.sleep(0)
    raise SystemExit


@app.task(soft_time_limit=1)
async def polite() -> str:
    """Clean up at the soft limit."""
    try:
        await asyncio.sleep(60)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
    return "cleaned up"


@app.task(time_limit=1)
async def outlast() -> None:
    """Wait."""
    await asyncio.sleep(60)
