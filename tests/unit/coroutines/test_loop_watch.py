"""The loop watch: what it says of a loop that is blocked, and of one that is not."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Context
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.coroutines.execution import run_coroutine
from broker_app.coroutines.loop_watch import BLOCKED_SECONDS, LoopWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 60.0
app = BrokerApp("watched", set_as_current=False)


@app.task
async def work() -> None:
    """Do nothing."""


async def block(gate: threading.Event) -> None:
    """Block the loop until the gate is open."""
    gate.wait(SECONDS)


async def block_in_a_child(gate: threading.Event) -> None:
    """Block the loop in an asyncio task."""
    await asyncio.create_task(block(gate))


async def block_in_a_callback(gate: threading.Event) -> None:
    """Block the loop outside asyncio tasks."""
    asyncio.get_running_loop().call_soon(gate.wait, SECONDS)
    await asyncio.sleep(0)


@contextmanager
def running_watch() -> Iterator[LoopWatch]:
    """Watch the process's loop for the length of a block."""
    watch = LoopWatch()
    watch.start()
    try:
        yield watch
    finally:
        watch.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the watch has logged; asyncio may log what an earlier test left behind."""
    return [record.getMessage() for record in caplog.records if record.name == "broker_app.coroutines.loop_watch"]


@pytest.mark.parametrize(
    ("body", "name"),
    [(block, f"{work.name}[id]"), (block_in_a_child, f"{work.name}[id]"), (block_in_a_callback, "a callback")],
)
def test_a_blocked_loop_is_logged_with_its_task_and_frame(
    body: Callable[[threading.Event], Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once when it has not turned for a second, and once when it turns again."""
    gate = threading.Event()
    caplog.set_level(logging.WARNING, "broker_app.coroutines.loop_watch")
    with running_watch() as watch, ThreadPoolExecutor(1) as pool:
        done = pool.submit(run_coroutine, body(gate), work, Context(id="id"))
        try:
            wait_until(lambda: any(name in line for line in lines(caplog)), SECONDS, "the loop to be seen")
            assert watch.blocked_since is not None
            assert (watch.lag_seconds or 0.0) >= BLOCKED_SECONDS
        finally:
            gate.set()
        done.result(SECONDS)
        wait_until(lambda: len(lines(caplog)) % 2 == 0, SECONDS, "the loop to turn again")
        wait_until(lambda: watch.blocked_since is None, SECONDS, "the end of the block")
    place = next(number for number, line in enumerate(lines(caplog)) if name in line)
    blocked, again = lines(caplog)[place : place + 2]
    assert f"{threading.__file__}:" in blocked
    assert name == "a callback" or f"{__file__}:{block.__code__.co_firstlineno + 2} in block" in blocked
    assert float(again.split()[-2]) >= BLOCKED_SECONDS


def test_a_loop_that_turns_has_a_lag_and_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that waits blocks nothing."""
    with running_watch() as watch:
        run_coroutine(asyncio.sleep(0), work, Context(id="id"))
        wait_until(lambda: watch.lag_seconds is not None, SECONDS, "the loop's first answer")
        assert watch.blocked_since is None or caplog.records
