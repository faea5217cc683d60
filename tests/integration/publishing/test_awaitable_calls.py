"""Awaitable calls and results, with a broker and a worker."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from apps import TWO_QUEUES, depth, take
from celery import chain, chord, group
from celery.exceptions import TimeoutError as ResultTimeoutError
from configured import configured_client
from ports import free_port
from waiting import wait_until
from workers import running_worker

from broker_app.errors import PublishError
from broker_app.publishing.bulk.awaited import CHUNK_ITEMS
from broker_app.publishing.spool import SpoolFile

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from apps import AppMaker, MakeUser
    from celery.canvas import Signature

    from broker_app import BrokerApp

SECONDS = 60.0
MANY = 200

TASKS = """
from workload import app

@app.task(bind=True)
def ids(self):
    return [self.request.parent_id, self.request.root_id]

@app.task(bind=True)
async def call(self):
    result = await ids.adelay()
    return [self.request.id, *await result.aget(timeout=50, disable_sync_subtasks=False)]

@app.task
async def wait():
    await (await ids.adelay()).aget(timeout=50)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, vhost_url: str) -> Iterator[BrokerApp]:
    """Return a client of a worker with these tasks and those of `workload`."""
    folder = tmp_path_factory.mktemp("awaiting")
    (folder / "awaiting.py").write_text(TASKS, encoding="utf-8")
    client = configured_client(folder, vhost_url, TWO_QUEUES)
    with running_worker(folder, vhost_url, "-I", "awaiting", "-P", "threads", "-c", "4"):
        yield client
    client.close()


def outcome(call: Awaitable[Any]) -> Any:
    """Await a call, then its result, and return that."""

    async def _await_both() -> Any:
        return await (await call).aget(timeout=SECONDS)

    return asyncio.run(_await_both())


def test_a_worker_runs_what_a_coroutine_publishes(served: BrokerApp) -> None:
    """Tasks, signatures, groups, chains and chords run, and each result can be awaited."""

    def sign(name: str, *args: Any) -> Signature:
        return served.signature(f"workload.{name}", args)

    calls: list[tuple[Awaitable[Any], Any]] = [
        (served.asend_task("workload.add", (1, 2)), 3),
        (sign("add", 1, 2).adelay(), 3),
        (sign("add", 1).aapply_async((2,), countdown=0.2), 3),
        (group(sign("add", 1, 2), sign("add", 3, 4)).aapply_async(), [3, 7]),
        (chain(sign("add", 1, 2), sign("mul", 3)).aapply_async(), 9),
        (chord([sign("add", 1, 2), sign("add", 3, 4)], sign("xsum")).adelay(), 10),
        (group(sign("add", 1, 2) | sign("mul", 2), sign("add", 1, 1)).adelay(), [6, 2]),
    ]
    for call, expected in calls:
        assert outcome(call) == expected


def test_a_failed_task_of_a_chain_raises(served: BrokerApp) -> None:
    """The last result of the chain raises the error."""
    failing = chain(served.signature("workload.fail", ("no luck",)), served.signature("workload.add", (1,)))
    with pytest.raises(ValueError, match="no luck"):
        outcome(failing.aapply_async())


def test_a_coroutine_of_a_worker_is_the_parent_of_what_it_publishes(served: BrokerApp) -> None:
    """A task that an `async def` task publishes has it as parent and root; its result can be awaited there."""
    task_id, parent_id, root_id = outcome(served.asend_task("awaiting.call"))
    assert task_id == parent_id == root_id


def test_a_task_does_not_wait_for_another_by_accident(served: BrokerApp) -> None:
    """As with `get`, a task that awaits a result must allow that, because it holds a slot meanwhile."""
    with pytest.raises(RuntimeError, match="within a task"):
        outcome(served.asend_task("awaiting.wait"))


def test_many_coroutines_publish_at_once(app: BrokerApp) -> None:
    """Each task is in its queue once; each call has returned after that."""

    async def _publish_many() -> list[str]:
        calls = [app.asend_task("shop.add", (n, n), queue="lopri") for n in range(MANY)]
        return [result.id for result in await asyncio.gather(*calls)]

    ids = asyncio.run(_publish_many())
    assert depth(app, "lopri") == MANY
    assert sorted(message.headers["id"] for message in take(app, "lopri")) == sorted(ids)


def test_a_cancelled_call_says_whether_the_queue_may_have_the_task(app: BrokerApp) -> None:
    """What says that it was not taken is not in the queue; what is, said that it may have been taken."""

    async def _send(number: int) -> Any:
        try:
            return await app.asend_task("shop.add", task_id=f"id-{number}")
        except asyncio.CancelledError as error:
            return error

    async def _cancel_all() -> list[Any]:
        calls = [asyncio.create_task(_send(number)) for number in range(MANY)]
        await calls[0]
        for call in calls:
            call.cancel()
        return await asyncio.gather(*calls)

    outcomes = asyncio.run(_cancel_all())
    untaken = {error.task_id for error in outcomes if not getattr(error, "maybe_taken", True)}
    assert untaken
    deadline = time.monotonic() + SECONDS
    taken: set[str] = set()
    while len(taken) + len(untaken) < MANY and time.monotonic() < deadline:
        taken |= {message.headers["id"] for message in take(app, "default")}
    assert taken | untaken == {f"id-{n}" for n in range(MANY)}
    assert not taken & untaken


def test_outcomes_of_many_are_awaited(app: BrokerApp) -> None:
    """They come in the order of the signatures, with the refusals among them, and are counted."""
    count = 2 * CHUNK_ITEMS + 10

    async def _publish() -> list[int]:
        signatures = (
            app.signature("shop.add", (n,), queue="default" if n != 5 else "nowhere") for n in range(count)
        )
        publication = app.apublish_many(signatures)
        numbers = [outcome.number async for outcome in publication if outcome.accepted]
        assert (publication.totals.accepted, publication.totals.refused) == (count - 1, 1)
        return numbers

    assert asyncio.run(_publish()) == [n for n in range(count) if n != 5]
    assert depth(app, "default") == count - 1
    totals = asyncio.run(app.apublish_many([app.signature("shop.add")]).run())
    assert totals.accepted == 1
    assert asyncio.run(app.apublish_many([]).run()).accepted == 0


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_publishing_of_many_ends_early(app: BrokerApp, *, is_cancelled: bool) -> None:
    """Closing or cancelling it ends it: no more signatures are read, and its connection is free for others."""
    read: list[int] = []

    def signatures() -> Iterator[Signature]:
        for n in range(100_000):
            read.append(n)
            yield app.signature("shop.add", (n,))

    async def _publish() -> None:
        async with app.apublish_many(signatures()) as publication:
            async for outcome in publication:
                if not is_cancelled or outcome.number > CHUNK_ITEMS:
                    return

    async def _end_early() -> None:
        publishing = asyncio.create_task(_publish())
        if is_cancelled:
            await asyncio.to_thread(wait_until, lambda: read, SECONDS, "the first signature")
            publishing.cancel()
        await asyncio.wait([publishing])
        assert publishing.cancelled() == is_cancelled

    asyncio.run(_end_early())
    count = len(read)
    asyncio.run(app.asend_task("shop.last"))
    assert len(read) <= count + 5 * CHUNK_ITEMS


def test_errors_of_the_broker_are_raised(make_app: AppMaker, make_user: MakeUser) -> None:
    """A queue that is missing and must not be declared is refused, as by the blocking call."""
    app = make_app(url=make_user("", ".*", ".*"))
    with pytest.raises(PublishError):
        asyncio.run(app.asend_task("shop.add"))


def test_calls_are_spooled_while_the_broker_is_away(make_app: AppMaker) -> None:
    """With a spool, awaited calls return although the broker is away, and each task is kept once."""
    port = free_port()
    settings = "[publish]\nspool = true\ntimeout_seconds = 0.5\n" + TWO_QUEUES
    app = make_app(settings, url=f"amqp://guest:guest@127.0.0.1:{port}//")

    async def _publish() -> list[str]:
        return [one.id for one in await asyncio.gather(*(app.asend_task("shop.add") for _ in range(20)))]

    ids = asyncio.run(_publish())
    store = SpoolFile(app.settings.state_dir, 1_000, 1_000_000)
    assert sorted(message.task_id for message in store.first(100)) == sorted(ids)


def test_a_forked_process_publishes(app: BrokerApp) -> None:
    """After the parent has published from a loop, a child does so with threads and connections of its own."""
    publish: Callable[[], Any] = lambda: asyncio.run(app.asend_task("shop.add"))  # noqa: E731
    publish()
    child = os.fork()
    if not child:
        publish()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    publish()
    assert depth(app, "default") == 3


def test_a_result_that_never_comes_times_out(app: BrokerApp) -> None:
    """Without a worker, awaiting the result raises Celery's TimeoutError."""

    async def _call() -> None:
        await (await app.asend_task("shop.add")).aget(timeout=0.1)

    with pytest.raises(ResultTimeoutError):
        asyncio.run(_call())
