"""Groups: the confirms of all members are awaited together, and a member that is not confirmed is an error."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from apps import depth, take
from brokers import vhost_of
from celery import chain, group, signals
from proxy import TcpProxy

from broker_app.errors import NoRoute, PublishTimeout, QueueFull, RoutingError
from broker_app.publishing.group import MAX_IN_FLIGHT
from broker_app.queues.headers import MAYBE_TWICE_HEADER
from broker_app.wire.confirm_channel import ConfirmChannel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker
    from brokers import Management
    from celery.canvas import Signature

    from broker_app import BrokerApp

MEMBERS = 2 * MAX_IN_FLIGHT + 10


def members(app: BrokerApp, number: int = MEMBERS, **options: Any) -> list[Signature]:
    """Return signatures of a task with these options."""
    return [app.signature("shop.add", args=(one,), **options) for one in range(number)]


def ids_in(app: BrokerApp, queue: str = "default") -> Counter[str]:
    """Take all messages of a queue, and return how often each id is there."""
    return Counter(message.headers["id"] for message in take(app, queue))


def noting(calls: list[str], name: str) -> Any:
    """Return a method of channels that writes down its calls."""
    method = getattr(ConfirmChannel, name)

    def noted(*args: Any) -> Any:
        calls.append(name)
        return method(*args)

    return noted


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app with an open connection."""
    app = make_app()
    app.send_task("shop.add", queue="lopri")
    return app


def test_all_members_are_confirmed(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is published once, with no wait before the last; members with a delay and chains are there too."""
    calls: list[str] = []
    for name in ("send", "wait"):
        monkeypatch.setattr(ConfirmChannel, name, noting(calls, name))
    result = group(members(app, MAX_IN_FLIGHT)).apply_async()
    assert calls[:MAX_IN_FLIGHT] == ["send"] * MAX_IN_FLIGHT
    assert ids_in(app) == dict.fromkeys((one.id for one in result.results), 1)
    mixed = [*members(app, 2), *members(app, 2, options={"countdown": 3600.0}), chain(members(app, 2))]
    group(mixed).apply_async()
    assert (depth(app, "default"), depth(app, "delay.1h")) == (3, 2)


def test_a_member_that_is_refused(app: BrokerApp, management: Management, fresh_vhost_url: str) -> None:
    """Whichever it is, the call raises its error; the confirmed members are there."""
    policy = {"pattern": "^default$", "definition": {"max-length": 5}, "apply-to": "queues"}
    management.put(f"policies/{vhost_of(fresh_vhost_url)}/default", policy)
    with pytest.raises(QueueFull):
        group(members(app)).apply_async()
    assert 5 <= sum(ids_in(app).values()) < MEMBERS
    with pytest.raises(NoRoute):
        group([*members(app, 2), *members(app, 1, options={"exchange": "amq.topic", "routing_key": "no"})])()
    assert depth(app, "default") == 2
    with pytest.raises(RoutingError, match="lopri"):
        group([*members(app, 2), *members(app, 1, options={"queue": "lopry"})])()
    assert depth(app, "default") == 4


def test_a_group_that_finds_its_queue_gone(app: BrokerApp) -> None:
    """The queue is declared again, and all members arrive."""
    with app.connection_for_write() as connection:
        group(members(app, 1))()
        connection.default_channel.queue_delete("default")
    result = group(members(app, 20))()
    assert ids_in(app) == dict.fromkeys((one.id for one in result.results), 1)


def test_the_signals_tell_of_each_member(app: BrokerApp) -> None:
    """Both signals of publishing are sent once for each member; the second after its confirm."""
    told: list[tuple[str, str]] = []

    def before(headers: Any, **_: Any) -> None:
        told.append(("before", headers["id"]))

    def after(headers: Any, **_: Any) -> None:
        told.append(("after", headers["id"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        result = group(members(app, 3))()
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    ids = [one.id for one in result.results]
    assert sorted(told) == sorted((when, one) for when in ("before", "after") for one in ids)


@pytest.fixture
def proxy(fresh_vhost_url: str) -> Iterator[TcpProxy]:
    """Return a way to the broker that can be cut."""
    with TcpProxy.to(fresh_vhost_url) as made:
        yield made


def test_a_connection_that_is_lost(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> None:
    """Members without an answer are sent again: each arrives, and those that may be there twice say so."""
    app = make_app(url=proxy.url(fresh_vhost_url))
    moments = iter(range(MEMBERS))

    def cut(**_: Any) -> None:
        if next(moments) in {0, 50, 51, MAX_IN_FLIGHT + 50, MEMBERS - 1}:
            proxy.cut()

    signals.before_task_publish.connect(cut)
    try:
        result = group(members(app))()
    finally:
        signals.before_task_publish.disconnect(cut)
    messages = take(make_app(), "default")
    copies = Counter(message.headers["id"] for message in messages)
    assert copies.keys() == {one.id for one in result.results}
    marked = {message.headers["id"] for message in messages if message.headers.get(MAYBE_TWICE_HEADER)}
    assert {one for one, number in copies.items() if number > 1} <= marked
    assert marked


def test_a_connection_that_is_lost_without_retry(
    make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str
) -> None:
    """With `retry=False` nothing is sent twice: the call raises `PublishTimeout`."""
    app = make_app(url=proxy.url(fresh_vhost_url))
    app.send_task("shop.add")
    proxy.freeze()
    with pytest.raises(PublishTimeout):
        group(members(app, 5)).apply_async(retry=False, confirm_timeout=0.5)
    proxy.thaw()
    assert all(number == 1 for number in ids_in(make_app()).values())
