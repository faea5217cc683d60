"""The broker's part of the metrics server, which must not disturb queues or consumers."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import amqp
import pytest
from apps import TWO_QUEUES, USER_PASSWORD, depth, put, take
from ending import joined
from waiting import wait_until

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology
from broker_app.metrics import catalogue
from broker_app.metrics.reader import Series
from broker_app.monitoring.broker_reader import BrokerReader
from broker_app.monitoring.collector import Collector
from broker_app.queues import work_topology
from broker_app.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.monitoring.broker_reader import BrokerNumbers

pytestmark = pytest.mark.version

SECONDS = 30.0
NOWHERE = "http://guest:guest@127.0.0.1:1"


@pytest.fixture
def watched(make_app: AppMaker, management: Management) -> Callable[..., BrokerApp]:
    """Return what makes an app with its queues declared and its broker's management API."""

    def make(tables: str = "[queues.default]\n[queues.lopri]\n", url: str | None = None) -> BrokerApp:
        app = make_app(f'management_url = "{url or management.url}"\n{tables}')
        with connect(app) as connection:
            declare_topology(connection, work_topology(app.settings.specs(), app.settings.prefix))
        return app

    return make


@pytest.fixture
def management_url(management: Management) -> Iterator[tuple[str, list[str]]]:
    """Return a way to the management API that notes what is asked for."""
    asked: list[str] = []

    class Between(BaseHTTPRequestHandler):
        """Hands on each request."""

        def do_GET(self) -> None:
            """Note it, and hand it on."""
            asked.append(self.path)
            headers = {"Authorization": self.headers["Authorization"]}
            with urlopen(Request(management.url + self.path, headers=headers), timeout=60) as answer:  # noqa: S310
                body = answer.read()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()
    joined(thread)


def when(reader: BrokerReader, condition: Callable[[BrokerNumbers], bool], what: str) -> BrokerNumbers:
    """Return the first reading of which a condition is true; the broker counts every few seconds."""

    def look() -> BrokerNumbers | None:
        found = reader.read()
        return found if condition(found) else None

    found = wait_until(look, SECONDS, what)
    assert found is not None
    return found


def test_queues_lanes_and_what_is_dead(watched: Callable[..., BrokerApp]) -> None:
    """Ready, held, dead and scheduled messages and consumers are those of the broker, by the settings' names."""
    app = watched('prefix = "shop."\n[queues.default]\n[queues.lopri]\n')
    for _ in range(5):
        app.send_task("a", queue="lopri")
    app.send_task("a", queue="lopri", countdown=20)
    app.send_task("a", queue="default", countdown=7_000)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        put(channel, amqp.Message(b"dead"), exchange="shop.tasks.dead", routing_key="shop.default")
        channel.basic_qos(0, 2, a_global=False)
        channel.basic_consume("shop.lopri", callback=lambda _: None)
        found = when(
            BrokerReader(app),
            lambda now: (
                (now.queues["lopri"].unacknowledged, now.queues["lopri"].consumers) == (2, 1)
                and now.queues["default"].dead == 1
            ),
            "counts",
        )
    lopri, default = found.queues["lopri"], found.queues["default"]
    assert (found.is_up, found.has_management, found.problem) == (True, True, "")
    assert (lopri.ready, lopri.consumers, lopri.dead) == (3, 1, 0)
    assert (default.ready, default.unacknowledged, default.consumers, default.oldest_wait) == (0, 0, 0, 0.0)
    assert found.parked == 0
    assert found.backlog is not None
    found = when(BrokerReader(app), lambda now: now.backlog is not None and now.backlog.total == 2, "the lanes")
    assert found.backlog is not None
    assert {name: count for name, count in found.backlog.buckets().items() if count} == {"1 minute": 1, "1 day": 1}


def test_priorities(watched: Callable[..., BrokerApp], broker_version: tuple[int, ...]) -> None:
    """Messages by priority are reported where the broker counts them: quorum from 4.3 on, classic on 3.10."""
    kind = "quorum" if broker_version >= (4, 3) else "classic"
    app = watched(f'[queues.default]\ntype = "{kind}"\npriorities = true\n')
    for priority in (0, 9, 9):
        app.send_task("a", priority=priority)
    is_told = kind == "quorum" or broker_version < (4,)
    expected = {"0": 1, "9": 2} if is_told else {}

    def told(now: BrokerNumbers) -> dict[str, int]:
        return {name: count for name, count in now.queues["default"].by_priority.items() if count}

    found = when(  # the two counts need not come together
        BrokerReader(app),
        lambda now: now.queues["default"].ready == 3 and told(now) == expected,
        "three messages by priority",
    )
    assert told(found) == expected


def test_the_oldest_wait_grows_while_nobody_consumes(watched: Callable[..., BrokerApp]) -> None:
    """The wait of the first message grows with the clock, and is absent when the queue is empty again."""
    app = watched()
    reader = BrokerReader(app)
    reader.read()
    app.send_task("a")
    sent = time.monotonic()
    wait_until(lambda: (reader.read().queues["default"].oldest_wait or 0) > 3, SECONDS, "a wait of three seconds")
    assert (reader.read().queues["default"].oldest_wait or 0) <= time.monotonic() - sent + 6
    take(app, "default")
    when(reader, lambda now: now.queues["default"].oldest_wait == 0.0, "an empty queue")


def test_many_answers_ask_the_broker_once(
    watched: Callable[..., BrokerApp], management_url: tuple[str, list[str]]
) -> None:
    """However many scrapes there are within the cache's time, the management API is asked once, and no queue."""
    url, asked = management_url
    app = watched("[metrics]\nbroker_cache_seconds = 60\n[queues.default]\n[queues.lopri]\n", url=url)
    app.send_task("a")
    asked.clear()
    collector = Collector(app, "1")
    wait_until(lambda: collector.collect().broker.has_management, SECONDS, "the first answer")
    for _ in range(20):
        assert collector.collect().broker.has_management
    collector.close()
    assert len(asked) == 1
    (message,) = take(app, "default")
    assert not message.delivery_info["redelivered"]


def test_without_the_management_api(watched: Callable[..., BrokerApp], make_app: AppMaker) -> None:
    """AMQP supplies the depths, other values are missing, and the reason is reported."""
    watched().send_task("a", queue="lopri")
    app = make_app(f'management_url = "{NOWHERE}"\n[queues.default]\n[queues.lopri]\n')
    found = BrokerReader(app).read()
    assert (found.is_up, found.has_management) == (True, False)
    assert "management API" in found.problem
    lopri = found.queues["lopri"]
    assert (lopri.ready, lopri.consumers, lopri.dead) == (1, 0, 0)
    assert (lopri.unacknowledged, lopri.oldest_wait, found.backlog) == (None, None, None)
    assert depth(app, "lopri") == 1


def test_a_management_api_that_refuses_the_user(
    watched: Callable[..., BrokerApp], make_app: AppMaker, make_user: MakeUser, management: Management
) -> None:
    """A user without a tag sees the depths by AMQP, and the refusal is reported without the password."""
    watched().send_task("a", queue="lopri")
    app = make_app(f'management_url = "{management.url}"\n{TWO_QUEUES}', url=make_user(".*", ".*", ".*"))
    found = BrokerReader(app).read()
    assert (found.is_up, found.has_management, found.queues["lopri"].ready) == (True, False, 1)
    assert "management API" in found.problem
    assert USER_PASSWORD not in found.problem


def test_a_broker_that_is_down_is_a_metric(make_app: AppMaker) -> None:
    """Without a broker `broker_up` is 0, the queues are missing, and the host's own values are served."""
    app = make_app(f'management_url = "{NOWHERE}"\n[queues.default]\n', url="amqp://guest:guest@127.0.0.1:1//")
    collector = Collector(app, "1")
    numbers = collector.collect().numbers
    collector.close()
    assert numbers[Series(catalogue.BROKER_UP, ())] == [0.0]
    assert numbers[Series(catalogue.MANAGEMENT_UP, ())] == [0.0]
    assert numbers[Series(catalogue.NODES_WANTED, ("default",))] == [1.0]
    assert numbers[Series(catalogue.SPOOLED, ())] == [0.0]
    assert not [series for series in numbers if series.metric in {catalogue.READY, catalogue.SCHEDULED}]


def test_a_wrong_password_is_a_broker_that_does_not_answer(make_app: AppMaker) -> None:
    """Refused credentials are reported as such, without the password."""
    place = urlsplit(make_app.url)
    url = place._replace(netloc=f"nobody:s3cr3t@{place.hostname}:{place.port}").geturl()
    found = BrokerReader(make_app(url=url)).read()
    assert not found.is_up
    assert "refused the user or password" in found.problem
    assert "s3cr3t" not in found.problem


def test_settings_of_the_server_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is set in the environment, and shown nowhere."""
    monkeypatch.setenv("BROKER_APP_METRICS__USERNAME", "prometheus")
    monkeypatch.setenv("BROKER_APP_METRICS__PASSWORD", "s3cr3t")
    settings = load_settings().metrics
    assert settings.password is not None
    assert settings.password.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in repr(settings)
