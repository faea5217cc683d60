"""A call ends in its time, whatever it waits for; and a countdown counts from the call."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from apps import take
from proxy import TcpProxy
from stopwatch import Stopwatch

from broker_app import publish_many
from broker_app.broker.pauses import pause_queue
from broker_app.celery_integration.control import Control
from broker_app.errors import BrokerError, BrokerUnreachable, PublishTimeout
from broker_app.publishing.call_start import set_call_start
from broker_app.queues.delay import parse_routing_key
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from apps import AppMaker

    from broker_app import BrokerApp

TIMEOUT_SECONDS = 4
SLACK_SECONDS = 3.5
"""For a busy machine; a call that waits for its pool and then as long again is later than that."""

DELAY_SECONDS = 30
AWAY_SECONDS = 2.0
"""How long the network is away."""

SMALL_POOL = f"[publish]\ntimeout_seconds = {TIMEOUT_SECONDS}\npool_limit = 2\n[queues.default]\n[queues.lopri]\n"


@contextmanager
def in_its_time(seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Demand that a block takes no longer than a call may."""
    watch = Stopwatch()
    yield
    assert watch.seconds < seconds + SLACK_SECONDS


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A URL whose server accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}//"


def one(app: BrokerApp) -> object:
    """Publish one task."""
    return app.send_task("shop.add", queue="lopri")


def many(app: BrokerApp) -> object:
    """Publish one task as one of many."""
    return publish_many([app.signature("shop.add", queue="lopri")], app=app).run()


@pytest.mark.parametrize("publish", [one, many])
def test_the_wait_for_a_connection_of_the_pool_counts(
    make_app: AppMaker, silent_url: str, publish: Callable[[BrokerApp], object]
) -> None:
    """Eight threads, no free connection: each call fails in its time, and says what it waited for."""
    app = make_app(SMALL_POOL, url=silent_url)
    assert app.backend
    held = [app.pool.acquire() for _ in range(2)]

    def call(_number: int) -> str:
        with in_its_time(), pytest.raises((BrokerUnreachable, PublishTimeout)) as caught:
            publish(app)
        return str(caught.value)

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(call, range(8)))
    assert all("publish.pool_limit" in text for text in told)
    assert all("for queue 'lopri'" in text for text in told)
    for connection in held:
        connection.release()


def test_a_call_that_gets_no_connection_is_spooled(make_app: AppMaker) -> None:
    """With a spool, a call that gets no connection from the pool in time is spooled."""
    app = make_app(SMALL_POOL.replace("[publish]", "[publish]\nspool = true"))
    held = [app.pool.acquire(block=True) for _ in range(2)]
    with in_its_time():
        one(app)
    assert app.amqp.publisher.store.has_waiting()
    for connection in held:
        connection.release()


def test_what_takes_a_connection_of_the_pool_otherwise_is_bounded_too(make_app: AppMaker) -> None:
    """Celery's remote control, and a caller of `producer_or_acquire`, wait no longer than a call."""
    app = make_app(SMALL_POOL)
    held = [app.pool.acquire(block=True) for _ in range(2)]
    with in_its_time(), pytest.raises(Exception, match=r"2|[Tt]imed out"):
        app.control.ping(timeout=0.1)
    with in_its_time(), pytest.raises(Exception, match=r"2|[Tt]imed out"):
        app.producer_pool.acquire(block=True)
    for connection in held:
        connection.release()


@pytest.mark.parametrize("publish", [one, many])
def test_a_countdown_counts_from_the_call(make_app: AppMaker, publish: Callable[[BrokerApp], object]) -> None:
    """A call that waits for its network takes that off the countdown: the task is due as if it had not waited."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app(url=proxy.url(make_app.url))
        one(app)
        take(make_app(), "lopri")
        proxy.freeze()

        def send() -> float:
            began = time.time()
            if publish is one:
                app.send_task("shop.add", queue="lopri", countdown=DELAY_SECONDS)
            else:
                publish_many([app.signature("shop.add", queue="lopri", countdown=DELAY_SECONDS)], app=app).run()
            return began

        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(send)
            time.sleep(AWAY_SECONDS)
            proxy.thaw()
            began = sending.result(60)
        headers, key = _held(make_app(), DELAY_SECONDS)
    rest, _ = parse_routing_key(key)
    assert 0 < rest.seconds < DELAY_SECONDS - AWAY_SECONDS / 2
    assert headers[DELAY_HEADER] == DELAY_SECONDS
    assert headers[PUBLISHED_AT_HEADER] == pytest.approx(began, abs=1)
    due = datetime.fromisoformat(str(headers["eta"])).astimezone(UTC)
    assert due.timestamp() == pytest.approx(began + DELAY_SECONDS, abs=1)


def test_cancel_and_pause_return_under_an_alarm(
    make_app: AppMaker, memory_alarm: Callable[[], AbstractContextManager[None]]
) -> None:
    """A broker that reads nothing, not even a farewell, is an error in bounded time; so is remote control."""
    app = make_app(SMALL_POOL)
    one(app)
    with memory_alarm():
        with in_its_time(TIMEOUT_SECONDS + 2), pytest.raises(BrokerError):
            Control(app).revoke("an-id")
        with in_its_time(TIMEOUT_SECONDS + 2), pytest.raises(BrokerError):
            pause_queue(app, "lopri")
        with in_its_time(), pytest.raises((BrokerUnreachable, PublishTimeout)):
            one(app)
        with in_its_time(TIMEOUT_SECONDS + 2), suppress(OSError):
            app.control.ping(timeout=0.1)


def _held(app: BrokerApp, seconds: float) -> tuple[dict[str, object], str]:
    """Return headers and routing key of the task that waits in the first lane of the rest of a delay."""
    with app.connection_for_write() as connection:
        for count in range(1, int(seconds) + 1):
            try:
                found = connection.default_channel.basic_get(f"delay.{count}s", no_ack=True)
            except connection.channel_errors:
                continue
            if found is not None:
                return dict(found.headers), found.delivery_info["routing_key"]
    raise AssertionError("no task waits in a lane")


# What is no time of the broker


def test_a_result_store_that_is_slow_to_load(make_app: AppMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a process imports it, which does not count: the broker still has all its time."""
    app = make_app(SMALL_POOL)
    load = app._get_backend

    def slowly() -> object:
        time.sleep(TIMEOUT_SECONDS + 1)
        return load()

    monkeypatch.setattr(app, "_get_backend", slowly)
    for _ in range(2):
        one(app)
    assert len(take(app, "lopri")) == 2


def test_a_call_that_is_too_late_sends_nothing(make_app: AppMaker) -> None:
    """Its time has passed before it can be sent, as on a machine that stood still."""
    app = make_app(SMALL_POOL)
    one(app)
    app._results_loaded_at = 0.0  # long ago
    set_call_start(time.monotonic() - 2 * TIMEOUT_SECONDS)
    with pytest.raises(BrokerUnreachable):
        one(app)
    assert len(take(app, "lopri")) == 1
