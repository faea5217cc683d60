"""Publishing over connections that break, that fail to open, and that the broker blocks."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ports
import pytest
from apps import delete, depth, take
from kombu.exceptions import OperationalError
from proxy import TcpProxy
from waiting import wait_until

from broker_app.errors import (
    BrokerUnreachable,
    PublishTimeout,
)
from broker_app.queues.headers import MAYBE_TWICE_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp

SLACK_SECONDS = 40.0
"""Added to a time-out of a second or two: separates a late call from one that waits for ever."""

PASSWORD = "s3cr3t"
PATIENTLY: dict[str, Any] = {"confirm_timeout": 60}
"""For the calls of a quick app that must succeed."""

QUICK = "[publish]\ntimeout_seconds = 2\nconnect_timeout_seconds = 1\n[queues.default]\n[queues.lopri]\n"


@contextmanager
def _in_bounded_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SLACK_SECONDS


def test_a_pooled_connection_that_the_broker_closed_loses_nothing(
    make_app: AppMaker, make_user: MakeUser, management: Management
) -> None:
    """After an operator closed an idle connection, the next task goes out on a new one, once."""
    url = make_user(".*", ".*", ".*")
    app = make_app(url=url)
    for number in range(4):
        app.send_task(f"round-{number}")
        management.close_connections_of(url)
    assert sorted(message.headers["task"] for message in take(app, "default")) == [f"round-{n}" for n in range(4)]


def test_a_task_that_may_be_there_twice_says_so(make_app: AppMaker) -> None:
    """Cut between the sending and the answer: it is sent again, arrives, and carries a header that says so."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app(url=proxy.url(make_app.url))
        app.send_task("first")
        proxy.freeze(new_too=False)
        proxy.round_trips = 0
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(app.send_task, "second")
            wait_until(lambda: proxy.round_trips, SLACK_SECONDS, "the task to be sent")
            proxy.cut()
            assert sending.result(SLACK_SECONDS).id
        messages = take(app, "default")
        assert [message.headers["task"] for message in messages] == ["first", "second"]
        assert [message.headers.get(MAYBE_TWICE_HEADER, False) for message in messages] == [False, True]


def test_a_late_answer_is_not_taken_for_the_next_tasks(make_app: AppMaker) -> None:
    """After a time-out the connection is dropped: the ack that was owed cannot confirm another task."""
    app = make_app(QUICK)
    app.send_task("shop.add", queue="lopri", **PATIENTLY)
    with TcpProxy.to(make_app.url) as proxy:
        slow = make_app(QUICK, url=proxy.url(make_app.url))
        slow.send_task("first", queue="lopri", **PATIENTLY)
        proxy.freeze(new_too=False)
        with _in_bounded_time(), pytest.raises(PublishTimeout) as caught:
            slow.send_task("unknown", queue="lopri")
        assert caught.value.maybe_taken is True
        delete(app, "lopri")
        slow.send_task("after", queue="lopri", **PATIENTLY)
        proxy.thaw()
        assert "after" in [message.headers["task"] for message in take(app, "lopri")]


def test_no_task_is_lost_while_the_network_breaks(make_app: AppMaker) -> None:
    """Every call that returned is on the broker, cut after cut."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app(url=proxy.url(make_app.url))
        app.send_task("warm")
        sent: list[str] = []
        is_over = threading.Event()

        def send() -> None:
            while not is_over.is_set():
                sent.append(app.send_task("shop.add").id)

        with ThreadPoolExecutor(2) as pool:
            sending = [pool.submit(send) for _ in range(2)]
            try:
                for _ in range(5):
                    known = len(sent)
                    wait_until(lambda known=known: len(sent) > known + 5, SLACK_SECONDS, "more tasks to be sent")
                    proxy.cut()
            finally:
                is_over.set()
            for future in sending:
                future.result(SLACK_SECONDS)
        assert set(sent) <= {message.headers["id"] for message in take(app, "default")}


@pytest.mark.parametrize("options", [{}, {"countdown": 3}, {"countdown": 0.5}], ids=["now", "lane", "fraction"])
@pytest.mark.parametrize("new_too", [False, True], ids=["old connection", "every connection"])
def test_a_dead_network_is_an_error_in_bounded_time(
    make_app: AppMaker,
    options: dict[str, Any],
    new_too: bool,  # noqa: FBT001 - a parameter
) -> None:
    """A peer that is cut off says nothing: no answer, no declaration and no handshake is waited for long."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app(QUICK, url=proxy.url(make_app.url))
        app.send_task("shop.add", **PATIENTLY)
        proxy.freeze(new_too=new_too)
        with _in_bounded_time():
            try:
                app.send_task("shop.add", **options)
            except (PublishTimeout, BrokerUnreachable):
                pass
            else:
                assert not new_too
        proxy.thaw()
        app.send_task("shop.add", **PATIENTLY)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def http_port(management: Management) -> int:
    """A port that speaks HTTP."""
    return urlsplit(management.url).port or 15672


@pytest.fixture
def free_port() -> int:
    """A port without a listener."""
    return ports.free_port()


@pytest.fixture
def bad_url(request: pytest.FixtureRequest, fresh_vhost_url: str) -> str:
    """A URL under which there is no broker to publish to, for the reason that the parameter names."""
    place = urlsplit(fresh_vhost_url)
    right = f"{place.username}:{place.password}"
    match request.param:
        case "wrong password":
            return f"amqp://{place.username}:{PASSWORD}@{place.hostname}:{place.port}{place.path}"
        case "missing vhost":
            return f"amqp://{right}@{place.hostname}:{place.port}/not-there"
        case "unknown host":
            return f"amqp://u:{PASSWORD}@no-such-host.invalid//"
        case "tls to a plain port":
            return f"amqps://u:{PASSWORD}@{place.hostname}:{place.port}//"
        case "two hosts, both down":
            return f"amqp://u:{PASSWORD}@127.0.0.1:1//;amqp://u:{PASSWORD}@127.0.0.1:2//"
        case name:
            return f"amqp://u:{PASSWORD}@127.0.0.1:{request.getfixturevalue(name)}//"


@pytest.mark.parametrize(
    "bad_url",
    [
        "free_port",
        "silent_port",
        "http_port",
        "wrong password",
        "missing vhost",
        "unknown host",
        "tls to a plain port",
        "two hosts, both down",
    ],
    indirect=True,
)
@pytest.mark.parametrize("options", [{}, {"countdown": 5}], ids=["now", "later"])
def test_no_broker_is_an_error_of_one_line_in_bounded_time(
    make_app: AppMaker, bad_url: str, options: dict[str, Any]
) -> None:
    """Typed, also kombu's OperationalError, one line with the task and the queue, and no password in it."""
    app = make_app(QUICK, url=bad_url)
    with _in_bounded_time(), pytest.raises(OperationalError) as caught:
        app.send_task("shop.add", confirm_timeout=1, **options)
    error = caught.value
    assert isinstance(error, BrokerUnreachable)
    assert (error.task, error.queue, error.maybe_taken) == ("shop.add", "default", False)
    login = urlsplit(bad_url.partition(";")[0])
    for text in (str(error), repr(error), str(error.__cause__)):
        assert "\n" not in text
        assert f"{login.username}:{login.password}" not in text
        assert PASSWORD not in text


def test_without_retry_the_first_failure_is_the_answer(make_app: AppMaker, free_port: int) -> None:
    """`retry=False` makes one attempt; nothing waits for the time-out."""
    app = make_app(url=f"amqp://u:p@127.0.0.1:{free_port}//")
    started = time.monotonic()
    with pytest.raises(BrokerUnreachable):
        app.send_task("shop.add", retry=False)
    assert time.monotonic() - started < app.settings.publish.timeout_seconds


def test_without_retry_a_lost_connection_is_an_error(make_app: AppMaker) -> None:
    """Nothing is sent twice then, and the next call reconnects."""
    with TcpProxy.to(make_app.url) as proxy:
        app = make_app(url=proxy.url(make_app.url))
        app.send_task("first")
        proxy.cut()
        with pytest.raises((PublishTimeout, BrokerUnreachable)):
            app.send_task("second", retry=False)
        app.send_task("third", retry=False)
        assert [message.headers["task"] for message in take(app, "default")] == ["first", "third"]


def test_a_second_host_takes_over(make_app: AppMaker, free_port: int) -> None:
    """Of several hosts in the URL one is enough, at once."""
    app = make_app(url=f"amqp://u:p@127.0.0.1:{free_port}//;{make_app.url}")
    app.send_task("shop.add", confirm_timeout=60)
    assert depth(app, "default") == 1


def test_an_alarm_is_an_error_in_bounded_time_or_a_wait(
    make_app: AppMaker, memory_alarm: Callable[[], AbstractContextManager[None]]
) -> None:
    """A blocked broker stops reading: small or 5 MB, on a new or a used connection, the caller gets an error.

    A call with enough time is confirmed when the alarm is over.
    """
    app, new = make_app(QUICK), make_app(QUICK)
    patient = make_app("[publish]\ntimeout_seconds = 100\n[queues.default]\n")
    app.send_task("before", **PATIENTLY)
    with ThreadPoolExecutor(1) as pool:
        with memory_alarm():
            waiting = pool.submit(patient.send_task, "patient")
            for sender in (app, new):
                for size_bytes in (1, 5_000_000):
                    with _in_bounded_time(), pytest.raises((BrokerUnreachable, PublishTimeout)) as caught:
                        sender.send_task("blocked", ("x" * size_bytes,))
                    assert "\n" not in str(caught.value)
            assert not waiting.done()
        assert waiting.result(60).id
    app.send_task("after", **PATIENTLY)
    new.send_task("after", **PATIENTLY)
    tasks = [message.headers["task"] for message in take(app, "default")]
    assert [tasks.count(task) for task in ("before", "patient", "after")] == [1, 1, 2]


def test_a_forked_process_has_a_connection_of_its_own(app: BrokerApp) -> None:
    """Parent and child publish at once after `os.fork`; neither reads the other's answers, and nothing is lost."""
    app.send_task("before")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ids = [app.send_task("child", confirm_timeout=60).id for _ in range(20)]
            os.write(writing, " ".join(ids).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    ids = [app.send_task("parent", confirm_timeout=60).id for _ in range(20)]
    with os.fdopen(reading) as pipe:
        ids += pipe.read().split()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    messages = take(app, "default")
    assert len(messages) == 41
    assert {message.headers["id"] for message in messages} >= set(ids)
    assert not any(MAYBE_TWICE_HEADER in message.headers for message in messages)


def test_publishes_where_eventlet_has_taken_poll_away(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that eventlet has patched, whose ``select`` has no ``poll``, publishes now and later."""
    monkeypatch.delattr("select.poll")
    app.send_task("shop.add", queue="lopri")
    app.send_task("shop.add", queue="lopri")
    app.send_task("shop.add", queue="lopri", countdown=3_600)
    assert (depth(app, "lopri"), depth(app, "delay.1h")) == (2, 1)
