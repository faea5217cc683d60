"""Plain calls of many coroutines share a connection: few round trips, and for each call its own outcome."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from apps import TWO_QUEUES, delete, depth, take
from brokers import vhost_of
from celery.app.task import Task
from proxy import TcpProxy

from broker_app.errors import NotEncodable, QueueFull, UnknownQueue
from broker_app.queues.headers import MAYBE_TWICE_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker
    from brokers import Management

    from broker_app import BrokerApp

MANY = 200
CLASSIC = "[queues.default]\ntype = 'classic'\n[queues.lopri]\n"


@pytest.fixture
def proxy(fresh_vhost_url: str) -> Iterator[TcpProxy]:
    """Return a way to the broker that can be cut."""
    with TcpProxy.to(fresh_vhost_url) as made:
        yield made


def plain(app: BrokerApp, **options: Any) -> Task:
    """Return a task whose calls are plain from now on: the messages of the first two become a template."""

    @app.task(name="shop.add", **options)
    def add(x: Any) -> None:
        pass

    for _ in range(3):
        add.apply_async((0,))
    take(app, options.get("queue", "default"))
    return add


def outcomes(*calls: Any) -> list[Any]:
    """Return the result or the error of each call; all are made at the same time."""

    async def _all() -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(_all())


def test_calls_share_round_trips(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> None:
    """Two hundred calls take a few round trips, and each one's task is in the queue once, with its id."""
    app = make_app(url=proxy.url(fresh_vhost_url))
    add = plain(app)
    proxy.round_trips = 0
    results = outcomes(*(add.adelay(n) for n in range(MANY)))
    assert proxy.round_trips < MANY / 4
    messages = take(app, "default")
    assert {message.headers["id"]: message.payload[0] for message in messages} == {
        result.id: [n] for n, result in enumerate(results)
    }
    assert len(messages) == MANY


def test_a_lost_connection_loses_no_call(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> None:
    """Calls whose answers were lost are sent again, marked; each one's task is in the queue."""
    app = make_app(url=proxy.url(fresh_vhost_url))
    add = plain(app)

    async def _cut_meanwhile() -> list[Any]:
        calls = [asyncio.create_task(add.adelay(n)) for n in range(MANY)]
        for _ in range(3):
            await asyncio.sleep(0.02)
            await asyncio.to_thread(proxy.cut)
        return await asyncio.gather(*calls)

    results = asyncio.run(_cut_meanwhile())
    messages = take(make_app(), "default")
    assert {message.headers["id"] for message in messages} == {result.id for result in results}
    doubled = len(messages) - MANY
    assert doubled <= sum(MAYBE_TWICE_HEADER in message.headers for message in messages)


def test_a_missing_queue_is_declared(app: BrokerApp) -> None:
    """Calls to a queue that was deleted meanwhile declare it again, and all tasks are in it."""
    add = plain(app, queue="lopri")
    delete(app, "lopri")
    results = outcomes(*(add.adelay(n) for n in range(20)))
    assert sorted(message.headers["id"] for message in take(app, "lopri")) == sorted(one.id for one in results)


def test_each_call_has_its_own_outcome(make_app: AppMaker, management: Management, fresh_vhost_url: str) -> None:
    """A full queue, an unknown queue, an unencodable argument: the error of one call is not that of another."""
    limit = {"pattern": "^default$", "definition": {"max-length": 5}, "apply-to": "queues"}
    management.put(f"policies/{vhost_of(fresh_vhost_url)}/full", limit)
    app = make_app(CLASSIC)
    add = plain(app)
    add.apply_async((0,), queue="lopri")
    found = outcomes(
        add.adelay(object()),
        add.aapply_async((1,), queue="lopry"),
        *(add.adelay(n) for n in range(40)),
        add.aapply_async((1,), queue="lopri"),
        add.aapply_async((1,), queue="lopri", countdown=60),
    )
    assert isinstance(found[0], NotEncodable)
    assert isinstance(found[1], UnknownQueue)
    refused = [one for one in found[2:42] if isinstance(one, QueueFull)]
    assert 0 < len(refused) < 40
    accepted = {one.id for one in found[2:42] if not isinstance(one, Exception)}
    assert {message.headers["id"] for message in take(app, "default")} == accepted
    assert not any(isinstance(one, Exception) for one in found[42:])
    assert depth(app, "lopri") == 2


def test_a_call_cancelled_at_once_is_not_made(app: BrokerApp) -> None:
    """Before its loop has run what else is ready, a cancelled call says that it was not published, and is not."""
    add = plain(app)

    async def _cancelled() -> Any:
        call = asyncio.create_task(add.adelay(1))
        await asyncio.sleep(0)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError as error:
            return error

    assert asyncio.run(_cancelled()).maybe_taken is False
    assert depth(app, "default") == 0


def test_a_task_class_with_a_call_of_its_own_sees_its_task_in_the_queue(make_app: AppMaker) -> None:
    """What such a class does after it has published, it does after the broker has confirmed."""
    app = make_app(TWO_QUEUES)
    depths: list[int | None] = []

    class Own(Task):
        """A class of a project."""

        def apply_async(self, *args: Any, **options: Any) -> Any:
            """Publish, and look into the queue."""
            result = super().apply_async(*args, **options)
            depths.append(depth(app, "default"))
            return result

    add = plain(app, base=Own)
    depths.clear()
    outcomes(add.adelay(1))
    assert depths == [1]
