"""Lifespans: what an app opens in each event loop is there before its coroutines, and closed once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals
from celery.app.task import Context
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.coroutines import lifespan
from broker_app.coroutines.execution import run_coroutine
from broker_app.errors import UnsupportedTask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


SECONDS = 60.0


class Shop:
    """An app with a task, and what its lifespan has done."""

    def __init__(self) -> None:
        self.app = BrokerApp("lifespans", set_as_current=False)
        self.told: list[str] = []
        self.failures = 0
        self.gate: threading.Event | None = None

        @self.app.task(bind=True, name="look")
        async def look(task: Any) -> Any:
            """Return the state."""
            await asyncio.sleep(0)
            return task.state

        self.app.finalize()
        self.look = look

    async def open(self) -> AsyncIterator[dict[str, int]]:
        """Tell the opening and the end; fail as often as it is to."""
        self.told.append("open")
        await asyncio.sleep(0.01)
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, SECONDS)
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        yield {"number": self.told.count("open")}
        self.told.append("close")

    def run(self, *_: Any) -> Any:
        """Run the task's body as a worker does."""
        return run_coroutine(self.look(), self.look, Context(id="id"))


@pytest.fixture
def shop() -> Shop:
    """Return an app with a lifespan."""
    made = Shop()
    made.app.lifespan(made.open)
    return made


def test_it_is_opened_once_and_closed_when_the_worker_ends(shop: Shop) -> None:
    """Many tasks that start together find the same state; the end is told once."""
    with ThreadPoolExecutor(8) as slots:
        assert list(slots.map(shop.run, range(20))) == [{"number": 1}] * 20
    assert shop.told == ["open"]
    for _ in range(2):
        signals.worker_shutdown.send(sender=None)
    assert shop.told == ["open", "close"]
    assert shop.look.state is None


def test_one_that_hangs_while_opening_is_logged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The tasks that wait for it show nothing themselves."""
    monkeypatch.setattr(lifespan, "OPENING_SECONDS", 0.05)
    gate = threading.Event()
    shop.gate = gate
    with ThreadPoolExecutor(1) as slots:
        answer = slots.submit(shop.run)
        try:
            wait_until(lambda: "has not opened" in caplog.text, SECONDS, "the log line")
        finally:
            gate.set()
        assert answer.result(SECONDS) == {"number": 1}


def test_one_that_cannot_be_opened_is_tried_again(shop: Shop) -> None:
    """Its error is the task's; the next task opens it."""
    shop.failures = 1
    with pytest.raises(ConnectionError):
        shop.run()
    assert shop.run() == {"number": 2}
    signals.worker_shutdown.send(sender=None)
    assert shop.told == ["open", "open", "close"]


def test_a_context_manager_of_ones_own() -> None:
    """It may be one already; a task's class may have a ``state`` of its own; without a lifespan there is none."""
    shop = Shop()
    with pytest.raises(AttributeError):
        _ = shop.look.state
    shop.app.lifespan(asynccontextmanager(shop.open))
    assert shop.run() == {"number": 1}
    signals.worker_shutdown.send(sender=None)

    class Own(shop.app.Task):  # type: ignore[name-defined] # a class that Celery makes for each app
        """Has a state."""

        state = "own"

    @shop.app.task(base=Own, name="own")
    def own() -> None: ...

    assert own.state == "own"


async def _without_yield() -> None: ...


def _without_async() -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [_without_yield, _without_async])
def test_a_function_of_another_kind_is_refused(function: Any) -> None:
    """The decorator names it, its place, and what it should be; the tasks would all fail instead."""
    with pytest.raises(UnsupportedTask, match=rf"{function.__name__} \({__file__}:\d+\): expected an async def"):
        BrokerApp("lifespans", set_as_current=False).lifespan(function)


def test_a_second_one_is_refused(shop: Shop) -> None:
    """It would silently replace the first; the same one may come again, as when its module is reloaded."""
    shop.app.lifespan(shop.open)
    with pytest.raises(UnsupportedTask, match="expected one for each app"):
        shop.app.lifespan(shop.run)
    assert shop.run() == {"number": 1}
    signals.worker_shutdown.send(sender=None)


def test_an_eager_task_in_a_coroutine_has_one_of_its_own_loop(shop: Shop) -> None:
    """It runs in a loop of its own, which is closed with it."""

    @shop.app.task(name="outer", bind=True)
    async def outer(task: Any) -> Any:
        """Return its state, and that of an eager task."""
        return task.state, shop.look.apply().get()

    assert run_coroutine(outer(), outer, Context(id="id")) == ({"number": 1}, {"number": 2})
    assert shop.told == ["open", "open", "close"]
    signals.worker_shutdown.send(sender=None)
    assert shop.told == ["open", "open", "close", "close"]
