"""Awaited results: `aget` means what `get` means, for many coroutines, with few queries and one thread."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from celery.exceptions import TimeoutError as ResultTimeoutError
from celery.result import AsyncResult, GroupResult
from sqlalchemy import event

from broker_app.results.arrivals import BURST_QUERIES, QUERIES_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from broker_app import BrokerApp

SECONDS = 30.0
MANY = 1_000


@pytest.fixture
def group(app: BrokerApp) -> GroupResult:
    """Return the result of a group: a task, and a group of two."""
    inner = GroupResult("inner", [app.AsyncResult("b"), app.AsyncResult("c")], app=app)
    return GroupResult("outer", [app.AsyncResult("a"), inner], app=app)


def store(app: BrokerApp, value: Any, *ids: str) -> None:
    """Store a task's result; an exception is its failure."""
    state = states.FAILURE if isinstance(value, Exception) else states.SUCCESS
    for task_id in ids:
        app.backend.store_result(task_id, value, state)


async def while_awaited(waiting: Awaitable[Any], app: BrokerApp, *stored: tuple[Any, str]) -> Any:
    """Store results once something waits, and return what it returns."""
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.05)
    for value, task_id in stored:
        await asyncio.to_thread(store, app, value, task_id)
    return await asyncio.wait_for(task, SECONDS)


def test_a_result_is_awaited(app: BrokerApp) -> None:
    """It arrives while a coroutine waits for it, was there before, or is known already."""
    result = app.AsyncResult("a")
    assert asyncio.run(while_awaited(result.aget(), app, (1, "a"))) == 1
    assert asyncio.run(AsyncResult("a", app=app).aget(timeout=0)) == 1
    assert asyncio.run(result.aget(timeout=0)) == 1


def test_a_failure_is_raised_or_returned(app: BrokerApp) -> None:
    """`propagate` decides, as with `get`; a callback gets the id and the value."""
    store(app, ValueError("no luck"), "a")
    called: list[Any] = []
    with pytest.raises(ValueError, match="no luck"):
        asyncio.run(app.AsyncResult("a").aget())
    error = asyncio.run(app.AsyncResult("a").aget(propagate=False, callback=lambda *told: called.append(told)))
    assert isinstance(error, ValueError)
    assert called == [("a", error)]


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_timeout_is_celerys(app: BrokerApp, group: GroupResult, timeout: float) -> None:
    """It raises what `get` raises, and a result that comes later can be awaited again."""
    result = app.AsyncResult("a")
    for waiting in (result, group):
        with pytest.raises(ResultTimeoutError):
            asyncio.run(waiting.aget(timeout=timeout))
    store(app, 1, "a")
    assert asyncio.run(result.aget(timeout=0)) == 1


def test_a_failed_parent_ends_the_wait(app: BrokerApp, group: GroupResult) -> None:
    """The last result of a chain raises the error of an earlier task or group member, unless told not to."""
    chained = app.AsyncResult("d", parent=group)
    with pytest.raises(ValueError, match="no luck"):
        asyncio.run(while_awaited(chained.aget(), app, (ValueError("no luck"), "c")))
    with pytest.raises(ResultTimeoutError):
        asyncio.run(app.AsyncResult("d", parent=group).aget(timeout=0.05, follow_parents=False))


def test_a_group_is_awaited(app: BrokerApp, group: GroupResult) -> None:
    """All members' results come in their order, an inner group's as a list; a callback gets each."""
    stored = ((3, "c"), (1, "a"), (2, "b"))
    assert asyncio.run(while_awaited(group.aget(), app, *stored)) == [1, [2, 3]]
    called: list[Any] = []
    assert asyncio.run(group.aget(callback=lambda *told: called.append(told))) is None
    assert called == [("a", 1), ("inner", [2, 3])]


def test_a_failed_member_ends_the_wait(app: BrokerApp, group: GroupResult) -> None:
    """A group raises the first failure without waiting for others; without `propagate` it is in the list."""
    with pytest.raises(ValueError, match="no luck"):
        asyncio.run(while_awaited(group.aget(), app, (ValueError("no luck"), "b")))
    store(app, 1, "a", "c")
    first, (error, last) = asyncio.run(group.aget(propagate=False))
    assert (first, type(error), last) == (1, ValueError, 1)


def test_an_ignored_result_and_an_empty_group_are_not_waited_for(app: BrokerApp) -> None:
    """They are None and an empty list at once."""
    ignored = app.AsyncResult("a")
    ignored.ignored = True
    assert asyncio.run(ignored.aget()) is None
    assert asyncio.run(GroupResult("g", [ignored], app=app).aget()) == [None]
    assert asyncio.run(GroupResult("g", [], app=app).aget()) == []


def test_callbacks_of_waiting_are_called(app: BrokerApp) -> None:
    """`on_interval` is called while a coroutine waits, `on_message` with what arrives."""
    calls: list[Any] = []
    waiting = app.AsyncResult("a").aget(
        interval=0.01, on_interval=lambda: calls.append(1), on_message=calls.append
    )
    assert asyncio.run(while_awaited(waiting, app, (1, "a"))) == 1
    assert calls[0] == 1
    assert calls[-1]["result"] == 1


def test_a_cancelled_wait_is_forgotten(app: BrokerApp) -> None:
    """A coroutine that is cancelled leaves nothing behind, and others still get the result."""
    result = app.AsyncResult("a")

    async def _cancel() -> Any:
        waiting = [asyncio.create_task(result.aget()) for _ in range(2)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        value = await while_awaited(waiting[1], app, (1, "a"))
        assert waiting[0].cancelled()
        return value

    assert asyncio.run(_cancel()) == 1


def test_the_error_of_the_store_is_raised(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that wait get it, and the next wait asks again."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("away")

    async def _errors() -> Any:
        waiting = (app.AsyncResult(task_id).aget() for task_id in ("a", "b"))
        return await asyncio.gather(*waiting, return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(app.backend, "get_many", refuse)
        assert [type(error) for error in asyncio.run(_errors())] == [OSError, OSError]
    store(app, 1, "a")
    assert asyncio.run(app.AsyncResult("a").aget(timeout=SECONDS)) == 1


def test_many_coroutines_share_queries_and_a_thread(app: BrokerApp) -> None:
    """A thousand waits, which begin over a second, stay within the limit of queries, and add one thread."""
    queries: list[str] = []
    engine = app.backend.ResultSession().get_bind()
    event.listen(engine, "before_cursor_execute", lambda *told: queries.append(told[2]))
    threads = set(threading.enumerate())

    async def _wait_for_all() -> list[int]:
        waits = []
        for number in range(MANY):
            waits.append(asyncio.create_task(app.AsyncResult(f"id-{number}").aget(timeout=SECONDS)))
            await asyncio.sleep(1 / MANY)
        assert len(set(threading.enumerate()) - threads) == 1
        began_with, asked = len(queries), time.monotonic()
        await asyncio.to_thread(store, app, 1, *(f"id-{number}" for number in range(MANY)))
        values = await asyncio.gather(*waits)
        reads = [query for query in queries[began_with:] if query.startswith("SELECT")]
        assert len(reads) <= (time.monotonic() - asked) * QUERIES_PER_SECOND + BURST_QUERIES
        return values

    began = time.monotonic()
    assert asyncio.run(_wait_for_all()) == [1] * MANY
    selects = [query for query in queries if query.startswith("SELECT")]
    assert len(selects) <= (time.monotonic() - began) * QUERIES_PER_SECOND + BURST_QUERIES + 2


def test_two_loops_and_a_forked_process_wait(app: BrokerApp) -> None:
    """Loops in several threads wait for one result; a process forked meanwhile inherits no wait."""
    answers: list[int] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(asyncio.run(app.AsyncResult("a").aget(timeout=SECONDS))))
        for _ in range(2)
    ]
    for one in waiting:
        one.start()
    store(app, 2, "b")
    child = os.fork()
    if not child:
        try:
            status = int(asyncio.run(app.AsyncResult("b").aget(timeout=SECONDS)) != 2)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    store(app, 1, "a")
    for one in waiting:
        one.join(SECONDS)
    assert answers == [1, 1]
