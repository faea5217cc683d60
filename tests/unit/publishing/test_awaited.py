"""Awaitable calls: they mean what the blocking ones mean, and say what became of them if nobody awaits them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from celery import chain, chord, group
from celery._state import task_join_will_block
from celery.app.task import Task

from broker_app import BrokerApp
from broker_app.errors import BrokerUnreachable, CallError, InvalidDelay, UnknownQueue
from broker_app.publishing.awaited import CallThreads, awaited
from broker_app.publishing.call_start import call_start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 30.0
NESTED = 12
"""More than there are threads for calls."""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[BrokerApp]:
    """Return an app whose broker is away."""
    file = tmp_path / "settings.toml"
    file.write_text(
        f"state_dir = '{tmp_path / 'state'}'\nbroker_url = 'amqp://127.0.0.1:1//'\n"
        "[publish]\ntimeout_seconds = 0.2\npool_limit = 2\n[queues.default]\n",
        encoding="utf-8",
    )
    app = BrokerApp("tests", config=file, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def eager(app: BrokerApp) -> BrokerApp:
    """Return an app whose tasks run at once."""
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def add(app: BrokerApp) -> Task:
    """Return a task."""

    @app.task(name="add", ignore_result=False)
    def add(x: int, y: int) -> int:
        return x + y

    return add


async def cancelled_await(app: BrokerApp, begun: threading.Event, go_on: threading.Event) -> Any:
    """Cancel the await of a call that has begun, and return its CancelledError."""

    def _call() -> None:
        begun.set()
        go_on.wait(SECONDS)

    waiting = asyncio.create_task(awaited(app, _call, "shop.add", "id-1"))
    await asyncio.to_thread(begun.wait, SECONDS)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await waiting
    return caught.value


def test_eager_tasks_and_canvases_run(eager: BrokerApp, add: Task) -> None:
    """In eager mode, each of them runs, and its result can be awaited."""

    async def _results() -> list[Any]:
        calls = [
            add.adelay(1, 2),
            add.aapply_async((1, 2), countdown=10),
            add.s(1, 2).adelay(),
            add.s(1).aapply_async((2,)),
            group(add.s(1, 2), add.s(3, 4)).aapply_async(),
            chain(add.s(1, 2), add.s(3)).adelay(),
            chord([add.s(1, 2), add.s(3, 4)], add.s([5])).aapply_async(),
        ]
        return [await (await call).aget() for call in calls]

    assert eager
    assert asyncio.run(_results()) == [3, 3, 3, 3, [3, 7], 6, [3, 7, 5]]


def test_an_empty_canvas_can_be_awaited() -> None:
    """It publishes nothing, as with the blocking call; an empty group has an empty result."""
    assert asyncio.run(group([]).aapply_async()).results == []
    assert asyncio.run(chain().aapply_async()) is None


def test_eager_tasks_may_await_more_tasks_than_there_are_threads(eager: BrokerApp) -> None:
    """A task that runs in eager mode holds no thread that the tasks it awaits need."""

    @eager.task(name="nested")
    async def _nested(depth: int) -> int:
        return 0 if not depth else 1 + await (await _nested.adelay(depth - 1)).aget()

    async def _result() -> Any:
        return await (await _nested.adelay(NESTED)).aget()

    assert asyncio.run(asyncio.wait_for(_result(), SECONDS)) == NESTED


def test_eager_tasks_that_overlap_leave_nothing_behind(eager: BrokerApp) -> None:
    """Whatever the order in which they end, a program may wait for results afterwards."""
    first_ends, second_ends = threading.Event(), threading.Event()

    @eager.task(name="first")
    def first() -> None:
        first_ends.wait(SECONDS)
        second_ends.set()

    @eager.task(name="second")
    def second() -> None:
        first_ends.set()
        second_ends.wait(SECONDS)

    async def _overlap() -> None:
        await asyncio.gather(first.adelay(), second.adelay())

    for _ in range(10):
        first_ends.clear()
        second_ends.clear()
        asyncio.run(_overlap())
        assert not task_join_will_block()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": "defaul"}, UnknownQueue),
        ({"countdown": -1}, InvalidDelay),
        ({"task_id": 1}, CallError),
        ({"link": "add"}, CallError),
        ({}, BrokerUnreachable),
    ],
)
def test_errors_are_those_of_the_blocking_call(
    app: BrokerApp, add: Task, options: dict[str, Any], error: type[Exception]
) -> None:
    """Each awaitable call raises what its blocking counterpart raises."""
    for call in (add.aapply_async((1, 2), **options), app.asend_task("add", (1, 2), **options)):
        with pytest.raises(error):
            asyncio.run(call)


def test_a_call_outside_a_loop_is_a_coroutine(add: Task) -> None:
    """Nothing happens until it is awaited, and Python warns if it never is."""
    call = add.adelay(1, 2)
    assert asyncio.iscoroutine(call)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del call


def test_a_class_of_tasks_keeps_its_own_method(app: BrokerApp) -> None:
    """A method of the same name in a project's own task class takes precedence."""

    class Own(Task):
        """A class of a project."""

        async def aapply_async(self, *args: Any, **options: Any) -> Any:
            """Return what it was called with."""
            return args, options

    @app.task(base=Own)
    def task() -> None:
        pass

    assert asyncio.run(task.adelay(1)) == (((1,), {}), {})


def test_a_call_sees_its_callers_context(app: BrokerApp) -> None:
    """Context variables of the coroutine, as those of tracing, are set in the thread that publishes."""
    variable = contextvars.ContextVar("variable", default=0)

    async def _read(number: int) -> int:
        variable.set(number)
        return await awaited(app, variable.get, "read")

    async def _read_many() -> list[int]:
        return await asyncio.gather(*map(_read, range(20)))

    assert asyncio.run(_read_many()) == list(range(20))


def test_a_call_cancelled_before_it_began_is_not_made(app: BrokerApp) -> None:
    """While all threads are busy, a cancelled await says that nothing was published, and nothing is."""
    go_on, made = threading.Event(), []

    async def _cancel_behind_others() -> Any:
        others = [asyncio.create_task(awaited(app, lambda: go_on.wait(SECONDS), "other")) for _ in range(2)]
        waiting = asyncio.create_task(awaited(app, lambda: made.append(1), "shop.add", "id-1"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        go_on.set()
        await asyncio.gather(*others)
        return caught.value

    error = asyncio.run(_cancel_behind_others())
    assert (error.task_id, error.maybe_taken, made) == ("id-1", False, [])


def test_a_call_cancelled_while_it_is_made_may_have_been_taken(
    app: BrokerApp, caplog: pytest.LogCaptureFixture
) -> None:
    """The CancelledError says so, with the task's id; its traceback too, and the log once the outcome is known."""
    caplog.set_level("INFO")
    begun, go_on = threading.Event(), threading.Event()

    async def _cancel() -> Any:
        try:
            return await cancelled_await(app, begun, go_on)
        finally:
            go_on.set()

    error = asyncio.run(_cancel())
    assert (error.task_id, error.maybe_taken) == ("id-1", True)
    assert "id-1" in error.__notes__[0]
    deadline = time.monotonic() + SECONDS
    while "id-1" not in caplog.text and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert "id-1" in caplog.text


def test_a_timeout_knows_what_may_have_been_taken(app: BrokerApp) -> None:
    """The cause of asyncio's TimeoutError has the attributes as well."""
    go_on = threading.Event()

    async def _wait_briefly(*, is_new: bool) -> Any:
        call = awaited(app, lambda: go_on.wait(SECONDS), "shop.add", "id-1")
        try:
            if is_new:
                async with asyncio.timeout(0.05):
                    await call
            else:
                await asyncio.wait_for(call, 0.05)
        except TimeoutError as error:
            return error.__cause__

    for is_new in (True, False):
        cause = asyncio.run(_wait_briefly(is_new=is_new))
        assert (cause.task_id, cause.maybe_taken) == ("id-1", True)
    go_on.set()


def test_waiting_for_a_thread_counts_once_calls_fail() -> None:
    """The time limit of a call behind one that failed began when it was asked for; behind a success it did not."""
    threads = CallThreads(1)
    go_on = threading.Event()

    def fail() -> None:
        raise BrokerUnreachable("task", "id", "queue", "away")

    def fail_later() -> None:
        go_on.wait(SECONDS)
        fail()

    asked = time.monotonic()
    with suppress(BrokerUnreachable):
        threads.submit(fail).result(SECONDS)
    assert threads.submit(call_start).result(SECONDS) >= asked

    threads.submit(fail_later)
    behind = threads.submit(call_start)
    asked = time.monotonic()
    threading.Event().wait(0.05)
    go_on.set()
    assert behind.result(SECONDS) <= asked

    threads.submit(lambda: threading.Event().wait(0.05))
    behind = threads.submit(call_start)
    assert behind.result(SECONDS) >= asked + 0.05


def test_an_outage_ends_all_waiting_calls_at_one_time(app: BrokerApp, add: Task) -> None:
    """With more calls than threads, none waits for the time limits of those before it."""

    async def _fail_many() -> None:
        outcomes = await asyncio.gather(*(add.adelay(n, n) for n in range(40)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {BrokerUnreachable}

    assert app.settings.publish.pool_limit < 40
    began = time.monotonic()
    asyncio.run(_fail_many())
    assert time.monotonic() - began < 20 * app.settings.publish.timeout_seconds


def test_two_loops_and_a_forked_process_make_calls(app: BrokerApp) -> None:
    """Loops in several threads share the threads of calls; a forked process makes its own."""

    async def _call(number: int) -> int:
        return await awaited(app, lambda: number, "call")

    answers: list[int] = []
    loops = [threading.Thread(target=lambda n=n: answers.append(asyncio.run(_call(n)))) for n in range(2)]
    for one in loops:
        one.start()
    for one in loops:
        one.join(SECONDS)
    assert sorted(answers) == [0, 1]
    child = os.fork()
    if not child:
        os._exit(int(asyncio.run(_call(5)) != 5))
    assert os.waitpid(child, 0)[1] == 0
