"""Results in Redis that are stored while their reader connects, subscribes or reconnects."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from celery.exceptions import TimeoutError as ResultTimeout
from ports import free_port
from redis.client import PubSub
from redis_server import NEEDS_REDIS, redis_server

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from redis import Redis

SECONDS = 90.0

pytestmark = NEEDS_REDIS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    """Return a client of a Redis of the test's own."""
    with redis_server(tmp_path, free_port()) as client:
        yield client


@contextmanager
def reader(folder: Path, port: int) -> Iterator[BrokerApp]:
    """Run an app whose results are in the Redis on a port, and which soon gives up on connecting to it."""
    file = folder / "settings.toml"
    file.write_text(f"state_dir = '{folder}'\nresult_url = 'redis://127.0.0.1:{port}/0'\n", encoding="utf-8")
    made = BrokerApp("tests", config=file, set_as_current=False)
    made.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 1, "interval_start": 0}}
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path, server: Redis) -> Iterator[BrokerApp]:
    """Return an app whose results are in that Redis."""
    with reader(tmp_path, server.connection_pool.connection_kwargs["port"]) as made:
        yield made


@pytest.fixture
def before_subscription(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Return what makes redis-py call a function before it sends its nth SUBSCRIBE."""

    def call_before(number: int, act: Callable[[], object]) -> None:
        send: Any = PubSub.execute_command
        sent = 0

        def hooked(pubsub: PubSub, *command: Any) -> Any:
            nonlocal sent
            sent += command[0] == "SUBSCRIBE"
            if command[0] == "SUBSCRIBE" and sent == number:
                act()
            return send(pubsub, *command)

        monkeypatch.setattr(PubSub, "execute_command", hooked)

    return call_before


def _store(app: BrokerApp, task_id: str) -> None:
    app.backend.store_result(task_id, task_id, states.SUCCESS)


def _cut(server: Redis) -> None:
    assert server.client_kill_filter(_type="pubsub", skipme=True) == 1


def test_a_result_stored_during_a_reconnect_is_found(
    app: BrokerApp, server: Redis, before_subscription: Callable[[int, Callable[[], object]], None]
) -> None:
    """`get()` returns a result that is stored just before the reader subscribes again."""
    before_subscription(2, lambda: _store(app, "id-1"))
    assert app.AsyncResult("id-1").get(timeout=SECONDS, on_interval=lambda: _cut(server)) == "id-1"


def test_a_result_stored_before_redis_subscribes_is_found(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """`get()` returns a result that is stored after its read, while its subscription is on the way to Redis."""
    send: Any = PubSub.execute_command
    held: list[tuple[Any, ...]] = []
    monkeypatch.setattr(PubSub, "execute_command", lambda *command: held.append(command))

    def arrive() -> None:
        _store(app, "id-1")
        monkeypatch.setattr(PubSub, "execute_command", send)
        for command in held:
            send(*command)

    assert app.AsyncResult("id-1").get(timeout=SECONDS, on_interval=arrive) == "id-1"


def test_a_result_stored_before_redis_py_reconnects_by_itself_is_found(app: BrokerApp) -> None:
    """`get()` returns a result that is stored while the connection is closed; redis-py opens it by itself."""
    consumer: Any = app.backend.result_consumer

    def close() -> None:
        consumer._pubsub.connection.disconnect()
        _store(app, "id-1")

    assert app.AsyncResult("id-1").get(timeout=SECONDS, on_interval=close) == "id-1"


def test_a_reader_whose_store_was_away_for_long_reads_again(tmp_path: Path) -> None:
    """All attempts to subscribe fail, and the reader tries again on its next call."""
    port = free_port()
    with reader(tmp_path, port) as app:
        result = app.AsyncResult("id-1")
        with pytest.raises(Exception, match="Retry limit exceeded"):
            result.get(timeout=SECONDS)
        with redis_server(tmp_path, port):
            assert result.get(timeout=SECONDS, on_interval=lambda: _store(app, "id-1")) == "id-1"


def test_a_result_that_is_deleted_asks_no_store(tmp_path: Path) -> None:
    """An awaited result is deleted while the store is away: nothing is raised."""
    port = free_port()
    with reader(tmp_path, port) as app:
        result = app.AsyncResult("id-1")
        with redis_server(tmp_path, port), pytest.raises(ResultTimeout):
            result.get(timeout=0.01)
        app.backend.remove_pending_result(result)


def test_many_results_are_found(app: BrokerApp) -> None:
    """Hundreds, half of which are stored before they are awaited and half while they are."""
    ids = [f"id-{number}" for number in range(400)]
    for one in ids[::2]:
        _store(app, one)
    later = iter(ids[1::2])

    def store_the_rest() -> None:
        for one in later:
            _store(app, one)

    results = app.ResultSet([app.AsyncResult(one) for one in ids], app=app)
    assert results.get(timeout=SECONDS, on_interval=store_the_rest) == ids
