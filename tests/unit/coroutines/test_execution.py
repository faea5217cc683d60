"""Executions: a coroutine runs as its slot's body would, and its slot gets its outcome."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from celery import current_task
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded

from broker_app import BrokerApp
from broker_app.coroutines import loop
from broker_app.coroutines.elsewhere import body_elsewhere
from broker_app.coroutines.execution import run_coroutine
from broker_app.worker.pools.time_limits import HardTimeLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 30.0
app = BrokerApp("coroutines", set_as_current=False)


@app.task
async def work() -> None:
    """Do nothing."""


def run(coroutine: Any, identity: str = "id") -> Any:
    """Run a coroutine as the body of a task with an id."""
    return run_coroutine(coroutine, work, Context(id=identity))


def fail() -> None:
    """Fail."""
    raise ValueError


def current_id() -> Any:
    """Return the id of the current task."""
    return current_task.request.id if current_task else None


@pytest.fixture
def interrupted() -> Iterator[Callable[..., Any]]:
    """Yield a function that runs a coroutine in a thread, interrupts it when it waits, and returns the outcome."""
    with ThreadPoolExecutor(1) as pool:
        (thread,) = pool.map(lambda _: threading.get_ident(), [0])

        def interrupt(coroutine: Any, waits: threading.Event, *errors: type[BaseException]) -> Any:
            outcome = pool.submit(run, coroutine)
            for error in errors:
                assert waits.wait(SECONDS)
                waits.clear()
                body = body_elsewhere(thread)
                assert body is not None
                body.interrupt(error)
            return outcome.result(SECONDS)

        yield interrupt


def test_each_coroutine_sees_its_own_request_and_task() -> None:
    """Interleaved in one loop, with asyncio tasks and threads of their own, none sees another's request."""

    async def seen() -> set[Any]:
        """Run in the loop."""
        found = {current_id(), work.request.id}
        for _ in range(5):
            await asyncio.sleep(0)
            found |= {current_id(), work.request.id}
        found.add(await asyncio.create_task(asyncio.sleep(0, current_id())))
        return found | {await asyncio.to_thread(current_id)}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: run(seen(), str(number)), range(100)))
    assert found == [{str(number)} for number in range(100)]
    assert current_id() is None


def test_all_coroutines_share_a_loop() -> None:
    """So clients and pools of connections can be shared."""

    async def running() -> Any:
        """Run in the loop."""
        return asyncio.get_running_loop()

    assert run(running()) is run(running())


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()])
def test_any_exception_reaches_the_slot(error: BaseException) -> None:
    """Whatever a coroutine raises is raised in its slot, and the loop goes on."""

    async def fail() -> None:
        """Run in the loop."""
        raise error

    with pytest.raises(type(error)) as caught:
        run(fail())
    assert caught.value is error
    run(asyncio.sleep(0))


def test_an_asyncio_task_cannot_end_the_loop() -> None:
    """A SystemExit in a task that nobody awaits does not keep the others from running."""

    async def leave() -> None:
        """Run in the loop."""

        async def exit_now() -> None:
            """Run in the loop."""
            raise SystemExit

        task = asyncio.create_task(exit_now())
        await asyncio.wait([task])

    run(leave())
    assert run(asyncio.sleep(0, 1)) == 1


def test_the_soft_limit_is_raised_where_the_coroutine_awaits(interrupted: Callable[..., Any]) -> None:
    """The coroutine can clean up with further awaits, as if it had not been cancelled."""
    waits = threading.Event()

    async def polite() -> Any:
        """Run in the loop."""
        try:
            waits.set()
            await asyncio.sleep(SECONDS)
        except SoftTimeLimitExceeded:
            async with asyncio.timeout(SECONDS):
                await asyncio.sleep(0.001)
            task = asyncio.current_task()
            return task.cancelling() if task else None

    assert interrupted(polite(), waits, SoftTimeLimitExceeded) == 0


def test_a_limit_is_raised_even_if_what_is_awaited_swallows_the_cancellation(
    interrupted: Callable[..., Any],
) -> None:
    """It is raised as soon as that has ended."""
    waits = threading.Event()

    async def deaf() -> None:
        """Run in the loop."""
        try:
            waits.set()
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def outer() -> None:
        """Run in the loop."""
        await asyncio.create_task(deaf())

    with pytest.raises(HardTimeLimit):
        interrupted(outer(), waits, HardTimeLimit)


def test_a_stubborn_coroutine_is_interrupted_again(interrupted: Callable[..., Any]) -> None:
    """Each interrupt is raised; the soft limit only once."""
    waits = threading.Event()
    caught: list[str] = []

    async def stubborn() -> list[str]:
        """Run in the loop."""
        while len(caught) < 3:
            try:
                waits.set()
                await asyncio.sleep(SECONDS)
            except BaseException as error:  # noqa: BLE001 - the worst that a task can do
                caught.append(type(error).__name__)
        return caught

    names = interrupted(stubborn(), waits, SoftTimeLimitExceeded, HardTimeLimit, HardTimeLimit)
    assert names == ["SoftTimeLimitExceeded", "HardTimeLimit", "HardTimeLimit"]


def test_asyncio_tasks_left_behind_are_cancelled_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One in a context of its own belongs to the process, and goes on."""
    kept: list[Any] = []

    async def leave() -> str:
        """Run in the loop."""
        from contextvars import Context as Own  # noqa: PLC0415 - not Celery's

        kept.append(asyncio.create_task(asyncio.sleep(SECONDS), name="left"))
        kept.append(asyncio.create_task(asyncio.sleep(SECONDS), context=Own()))
        return "result"

    async def end() -> None:
        """Run in the loop."""
        kept[1].cancel()

    assert run(leave()) == "result"
    assert [task.done() for task in kept] == [True, False]
    assert "id] left asyncio tasks behind" in caplog.text
    run(end())


def test_an_eager_task_runs_inside_a_coroutine() -> None:
    """The loop that waits for it does not keep it from running."""

    async def outer() -> Any:
        """Run in the loop."""
        return work.apply(throw=True).state

    assert run(outer()) == "SUCCESS"


def test_the_policy_of_the_user_makes_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as uvloop's."""

    class Own(asyncio.SelectorEventLoop):
        """The loop of a policy."""

    monkeypatch.setattr(loop, "_thread", None)
    monkeypatch.setattr(asyncio, "new_event_loop", Own)

    async def running() -> Any:
        """Run in the loop."""
        return type(asyncio.get_running_loop())

    assert run(running()) is Own


def test_a_forked_process_has_a_loop_of_its_own() -> None:
    """The parent's thread does not exist in it."""
    run(asyncio.sleep(0))
    child = os.fork()
    if not child:
        os._exit(run(asyncio.sleep(0, 7)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_map_and_errbacks_run_a_coroutine() -> None:
    """Celery calls the task itself there, and would drop the coroutine."""
    ran: list[Any] = []

    async def note(*args: Any) -> int:
        """Run in the loop."""
        ran.append(args)
        return len(args)

    other = BrokerApp("maps", set_as_current=False)
    task = other.task(name="note")(note)
    assert task.map([1, 2]).apply().get() == [1, 1]
    assert task.starmap([(1, 2)]).apply().get() == [2]
    other.task(name="fail")(fail).apply(link_error=task.s())
    assert len(ran) == 4
    assert len(ran[-1]) == 3
