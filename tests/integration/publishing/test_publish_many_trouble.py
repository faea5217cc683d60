"""Publishing many tasks when the connection breaks, hangs or cannot be had: nothing is lost from sight."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from apps import depth, take
from ports import free_port
from proxy import TcpProxy
from stopwatch import Stopwatch

from broker_app.errors import BrokerUnreachable, PublishError, PublishTimeout
from broker_app.queues.headers import MAYBE_TWICE_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from apps import AppMaker

    from broker_app import BrokerApp
    from broker_app.publishing.bulk import ItemOutcome

QUICK = "[publish]\ntimeout_seconds = 4\n[queues.default]\n"


@pytest.fixture
def proxy(fresh_vhost_url: str) -> Iterator[TcpProxy]:
    """Return a way to the broker that can be cut."""
    with TcpProxy.to(fresh_vhost_url) as made:
        yield made


@pytest.fixture
def app(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> BrokerApp:
    """Return an app that goes that way, and waits four seconds at most."""
    return make_app(QUICK, url=proxy.url(fresh_vhost_url))


def published(app: BrokerApp, signatures: Any) -> tuple[list[ItemOutcome], PublishError | None]:
    """Publish, and return the outcomes and how it ended."""
    outcomes: list[ItemOutcome] = []
    try:
        app.publish_many(signatures).run(outcomes.append)
    except PublishError as error:
        return outcomes, error
    return outcomes, None


def signatures(app: BrokerApp, count: int, events: dict[int, Callable[[], None]]) -> Iterator[Any]:
    """Yield signatures; before some of them something happens."""
    for n in range(count):
        if n in events:
            events[n]()
        yield app.signature("any", args=(n,))


def test_a_cut_connection_is_made_again(make_app: AppMaker, app: BrokerApp, proxy: TcpProxy) -> None:
    """Every item is confirmed; what is there twice is named by its outcome, and says so in its header."""
    outcomes, error = published(app, signatures(app, 3_000, dict.fromkeys((0, 500, 501, 1_700), proxy.cut)))
    assert error is None
    assert [outcome.number for outcome in outcomes] == list(range(3_000))
    assert all(outcome.accepted for outcome in outcomes)
    maybe_twice = {outcome.task_id for outcome in outcomes if outcome.maybe_twice}
    messages = take(make_app(), "default")
    copies = Counter(message.headers["id"] for message in messages)
    assert copies.keys() == {outcome.task_id for outcome in outcomes}
    assert {task_id for task_id, count in copies.items() if count > 1} <= maybe_twice
    assert maybe_twice == {
        message.headers["id"] for message in messages if message.headers.get(MAYBE_TWICE_HEADER)
    }
    assert maybe_twice


def test_delayed_items_are_sent_again_with_their_delay(
    make_app: AppMaker, app: BrokerApp, proxy: TcpProxy
) -> None:
    """A message that is sent again goes the way that it went, and keeps its arguments and its eta."""

    def given() -> Iterator[Any]:
        for n in range(200):
            if n == 100:
                proxy.cut()
            yield app.signature("any", args=(n, "ü"), kwargs={"k": [n]}, countdown=3_600)

    outcomes, error = published(app, given())
    assert error is None
    messages = {message.headers["id"]: message for message in take(make_app(), "delay.1h")}
    assert messages.keys() == {outcome.task_id for outcome in outcomes}
    for outcome in outcomes:
        message = messages[outcome.task_id]
        assert message.decode()[:2] == [[outcome.number, "ü"], {"k": [outcome.number]}]
        assert message.headers["eta"] is not None


def test_a_connection_that_was_closed_while_nothing_was_sent(app: BrokerApp, proxy: TcpProxy) -> None:
    """A connection that is cut between items costs nothing: each is accepted, and none is marked."""

    def given() -> Iterator[Any]:
        for _ in range(3):
            yield app.signature("any")
            yield None
            proxy.cut()

    outcomes, error = published(app, given())
    assert error is None
    assert [(outcome.accepted, outcome.maybe_twice) for outcome in outcomes] == [(True, False)] * 3


def test_nobody_there(make_app: AppMaker) -> None:
    """The first item says that it was not published, no more are read, and the same is raised in the end."""
    port = free_port()
    app, read = make_app(QUICK, url=f"amqp://guest:guest@127.0.0.1:{port}//"), itertools.count()
    watch = Stopwatch()
    outcomes, error = published(app, (app.signature("any", args=(n,)) for n in read))
    assert watch.seconds < 8
    assert [type(outcome.error) for outcome in outcomes] == [BrokerUnreachable]
    assert error is outcomes[0].error
    assert next(read) == 1


def test_a_black_hole(make_app: AppMaker, proxy: TcpProxy, fresh_vhost_url: str) -> None:
    """Items that were sent into it are unknown, in order, and nothing waits longer than the time-out."""
    app = make_app(QUICK.replace("= 4", "= 6"), url=proxy.url(fresh_vhost_url))
    watch = Stopwatch()

    def freeze() -> None:
        proxy.freeze()
        watch.restart()

    outcomes, error = published(app, signatures(app, 8_000, {3_000: freeze}))
    assert watch.seconds < 12  # twice the time-out would be longer
    assert isinstance(error, PublishTimeout)
    assert [outcome.number for outcome in outcomes] == list(range(len(outcomes)))
    states = [(outcome.accepted, outcome.maybe_taken) for outcome in outcomes]
    assert (True, False) in states
    assert states == sorted(states, reverse=True)  # accepted, then unknown, then at most one that was not sent
    assert states.count((False, False)) <= 1
    first = next(outcome for outcome in outcomes if not outcome.accepted)
    assert error is first.error


def test_after_the_broker_was_away_it_can_be_used_again(app: BrokerApp, proxy: TcpProxy) -> None:
    """A run that gave up has left nothing behind: the next one publishes all."""
    published(app, signatures(app, 500, {100: proxy.freeze}))
    proxy.cut()
    proxy.thaw()
    outcomes, error = published(app, signatures(app, 100, {}))
    assert error is None
    assert sum(outcome.accepted for outcome in outcomes) == 100


def test_wrong_credentials_are_said_at_once(make_app: AppMaker, proxy: TcpProxy) -> None:
    """Wrong credentials end the run with `BrokerUnreachable`, without waiting for the time-out."""
    app = make_app("[queues.default]\n", url=f"amqp://nobody:wrong@127.0.0.1:{proxy.port}/%2F")
    watch = Stopwatch()
    outcomes, error = published(app, signatures(app, 10, {}))
    assert watch.seconds < 30
    assert isinstance(error, BrokerUnreachable)
    assert "alarm" not in str(error)
    assert len(outcomes) == 1


def test_an_alarm_blocks_for_a_bounded_time(
    make_app: AppMaker, memory_alarm: Callable[[], AbstractContextManager[None]]
) -> None:
    """Under an alarm the run ends in bounded time with an error, and the next run after it publishes all."""
    app = make_app(QUICK)
    with memory_alarm():
        watch = Stopwatch()
        outcomes, error = published(app, signatures(app, 3_000, {}))
        assert watch.seconds < 20
    assert isinstance(error, PublishError)
    assert outcomes[-1].error is not None
    left, error = published(app, signatures(app, 10, {}))
    assert error is None
    assert (depth(app, "default") or 0) >= len(left)
