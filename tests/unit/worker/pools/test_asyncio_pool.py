"""The asyncio pool, without a broker: how many run at once, where they run, and what ends them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.coroutines.execution import run_coroutine
from broker_app.errors import SettingsError
from broker_app.worker.pools.asyncio_pool import MAX_THREADS, TRACERS, YOUNG_OBJECTS, TaskPool
from broker_app.worker.pools.interrupts import InterruptibleSlots
from broker_app.worker.pools.time_limits import STUCK_SECONDS, TimeLimits
from broker_app.worker.unsupported import refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 30.0


class Pool:
    """A running pool, and what its tasks have done.

    Attributes:
        pool: The pool.
        answers: What the tasks have returned.
        pids: The numbers under which they were accepted.
    """

    def __init__(self, slots: int) -> None:
        self.app = BrokerApp("unit", set_as_current=False)

        @self.app.task(name="coroutine")
        async def coroutine() -> None: ...

        @self.app.task(name="plain")
        def plain() -> None: ...

        self.pool = TaskPool(limit=slots, app=self.app)
        self.answers: list[Any] = []
        self.pids: list[int] = []
        self.pool.start()

    def run(self, body: Callable[[], Any], limits: Callable[[Callable[[], Any]], Any] | None = None) -> None:
        """Run a coroutine function as the body of a task."""

        def trace(name: str) -> Any:
            run = partial(run_coroutine, body(), self.app.tasks[name], Context(id="id"))
            return run() if limits is None else limits(run)

        self.call("coroutine", trace)

    def call(self, name: str, target: Callable[[str], Any], *, is_revoked: bool = False) -> None:
        """Hand a function to the pool."""

        def accept(pid: int, _: float) -> None:
            self.pids.append(pid)
            if is_revoked:
                raise TaskRevokedError(name)

        self.pool.apply_async(target, (name,), {}, callback=self.answers.append, accept_callback=accept)

    def wait_for(self, count: int) -> None:
        """Wait until so many tasks have ended."""
        wait_until(lambda: len(self.answers) >= count, SECONDS, f"{count} tasks to end")


@pytest.fixture
def thresholds() -> Iterator[None]:
    """Set back the garbage collector's thresholds afterwards."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture
def make_pool() -> Iterator[Callable[[int], Pool]]:
    """Return a function that starts a pool of so many slots."""
    pools: list[Pool] = []

    def make(slots: int) -> Pool:
        pools.append(Pool(slots))
        return pools[-1]

    yield make
    for made in pools:
        made.pool.stop()


def test_coroutines_share_a_few_threads(make_pool: Callable[[int], Pool]) -> None:
    """A thousand wait at once, in one loop; beside it there are no more threads than tracers."""
    pool, before, running, highest = make_pool(1000), threading.active_count(), 0, 0

    async def wait() -> int:
        """Wait for the last one."""
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        while highest < 1000:  # noqa: ASYNC110 - all of them at once
            await asyncio.sleep(0.01)
        return threading.get_ident()

    for _ in range(1000):
        pool.run(wait)
    pool.wait_for(1000)
    assert len(set(pool.answers)) == 1
    assert threading.active_count() <= before + TRACERS + 1


def test_no_more_run_than_there_are_slots(make_pool: Callable[[int], Pool]) -> None:
    """Of both kinds together; the others follow, coroutines in their order."""
    pool, running, highest, order = make_pool(2), 0, 0, list[int]()

    async def wait(number: int) -> None:
        """Count how many run."""
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        order.append(number)
        await asyncio.sleep(0.01)
        running -= 1

    def work(number: int, _: str) -> None:
        asyncio.run(wait(number))

    for number in range(20):
        if number % 2:
            pool.run(partial(wait, number))
        else:
            pool.call("plain", partial(work, number))
    pool.wait_for(20)
    assert highest == 2
    assert sorted(order) == list(range(20))
    assert [number for number in order if number % 2 == 0] == list(range(0, 20, 2))  # threads begin as they may


def test_plain_tasks_block_neither_loop_nor_tracers(make_pool: Callable[[int], Pool]) -> None:
    """While as many as may hold their threads, coroutines run; each plain task has a thread of its own."""
    pool, go = make_pool(100), threading.Event()
    for _ in range(MAX_THREADS):
        pool.call("plain", lambda _: go.wait(SECONDS) and threading.get_ident())
    pool.run(partial(asyncio.sleep, 0.01, "ran"))
    pool.wait_for(1)
    assert pool.answers == ["ran"]
    go.set()
    pool.wait_for(MAX_THREADS + 1)
    assert len(set(pool.answers)) == MAX_THREADS + 1


def test_a_tracer_that_blocks_holds_up_no_body(make_pool: Callable[[int], Pool]) -> None:
    """While a handler waits, bodies go on, and other tasks are traced in other threads."""
    pool, go = make_pool(100), threading.Event()
    pool.call("coroutine", lambda _: go.wait(SECONDS))
    for _ in range(10):
        pool.run(partial(asyncio.sleep, 0.01, "ran"))
    pool.wait_for(10)
    assert pool.answers == ["ran"] * 10
    go.set()


def test_what_has_not_started_is_dropped(make_pool: Callable[[int], Pool]) -> None:
    """Its slot is free again; what runs goes on. A revoked task frees its slot too."""
    pool, begun, go = make_pool(1), threading.Event(), threading.Event()

    async def hold() -> str:
        """Hold the only slot."""
        begun.set()
        while not go.is_set():  # noqa: ASYNC110 - it is set by another thread
            await asyncio.sleep(0.01)
        return "held"

    pool.run(hold)
    assert begun.wait(SECONDS)
    for _ in range(5):
        pool.call("coroutine", str)
        pool.call("plain", str)
    pool.pool.flush()
    pool.call("coroutine", str, is_revoked=True)
    pool.call("plain", str, is_revoked=True)
    pool.call("plain", str)
    go.set()
    pool.wait_for(2)
    assert pool.answers == ["held", "plain"]


def test_an_error_frees_its_slot(make_pool: Callable[[int], Pool]) -> None:
    """Whatever is raised outside of Celery's tracer, the next task runs."""
    pool = make_pool(1)

    def leave(_: str) -> None:
        raise SystemExit

    for name in ("coroutine", "plain"):
        pool.call(name, leave)
    pool.run(partial(asyncio.sleep, 0, "ran"))
    wait_until(lambda: "ran" in pool.answers, SECONDS, "the next task")


def test_a_coroutine_is_terminated(make_pool: Callable[[int], Pool]) -> None:
    """``revoke(terminate=True)`` ends it where it awaits, as no failure; a plain task is refused."""
    pool, begun, ended = make_pool(1), threading.Event(), threading.Event()

    async def hold() -> None:
        """Wait for the end."""
        try:
            begun.set()
            await asyncio.sleep(SECONDS)
        finally:
            ended.set()

    pool.run(hold)
    assert begun.wait(SECONDS)
    pool.pool.terminate_job(pool.pids[0])
    assert ended.wait(SECONDS)
    pool.wait_for(1)
    assert pool.answers == [(False, None, None)]
    pool.call("plain", str)
    pool.wait_for(2)
    with pytest.raises(NotImplementedError):
        pool.pool.terminate_job(pool.pids[1])


def test_a_stuck_coroutine_is_replaced(make_pool: Callable[[int], Pool]) -> None:
    """One that swallows its end beyond its limit gives its slot to others, until it ends after all."""
    pool, told, go = make_pool(1), list[float](), threading.Event()
    request = SimpleNamespace(
        time_limits=(0.1, None),
        task=SimpleNamespace(time_limit=None, soft_time_limit=None),
        time_out=lambda seconds, _: told.append(seconds),
        humaninfo=lambda: "a task",
    )
    too_many: list[bool] = []
    limits = TimeLimits(
        InterruptibleSlots(pool.pool),
        hard_seconds=None,
        soft_seconds=None,
        most_stuck=2,
        on_too_many=lambda: too_many.append(True),
    )

    async def cling() -> None:
        """Swallow every end."""
        while not go.is_set():
            with suppress(BaseException):
                await asyncio.sleep(0.01)

    def limited(run: Callable[[], Any]) -> Any:
        limits.accept(request)  # type: ignore[arg-type] # the part of a request that the limits use
        return limits.run(run)

    pool.run(cling, limited)
    pool.run(partial(asyncio.sleep, 0, "ran"))
    started = time.monotonic()
    pool.wait_for(1)
    assert time.monotonic() - started > STUCK_SECONDS
    assert (pool.answers, told, limits.stuck, too_many) == (["ran"], [0.1], 1, [])
    go.set()
    wait_until(lambda: not limits.stuck, SECONDS, "it to end")
    wait_until(lambda: pool.pool._free == 1, SECONDS, "its slot to be taken back")


def test_a_process_that_gevent_has_patched_is_refused(
    make_pool: Callable[[int], Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with the cure."""
    monkeypatch.setitem(
        __import__("sys").modules, "gevent.monkey", SimpleNamespace(is_module_patched=lambda _: True)
    )
    pool = make_pool(1)
    with pytest.raises(SettingsError, match="gevent"):
        refuse_unsupported(pool.pool)


@pytest.mark.usefixtures("thresholds")
@pytest.mark.parametrize(("own", "young"), [(700, YOUNG_OBJECTS), (50_000, 50_000), (0, 0)])
def test_garbage_is_collected_less_often_unless_the_program_says_how(
    make_pool: Callable[[int], Pool], own: int, young: int
) -> None:
    """Thousands of waiting tasks are not looked at again and again; a program's own thresholds stay."""
    gc.set_threshold(own)
    make_pool(1)
    assert gc.get_threshold()[0] == young
