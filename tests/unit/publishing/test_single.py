"""A single call from a template is, byte for byte, the message that Celery would have built."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import celery
import pytest
from celery import signals
from celery.app.routes import Router
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker_app import BrokerApp
from broker_app.publishing.publisher import Publisher
from broker_app.publishing.single import TemplatedMessage
from broker_app.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.publishing.message import OutgoingMessage

NOW = datetime(2026, 11, 28, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CONFIG = """
[queues.default]
type = "classic"
priorities = true
[queues.lopri]
"""


class KeepingPublisher(Publisher):
    """Keeps the messages instead of sending them."""

    kept: list[OutgoingMessage]

    def hand_over(self, connection: Any, outgoing: OutgoingMessage, deadline: float, *, retry: bool) -> bool:
        """Keep a message, with what decides on its time and its retries."""
        del connection
        self.kept.append(outgoing)
        self.limits = deadline, retry
        return True


class Wire:
    """A channel that keeps what is written."""

    number = 1

    class connection:  # noqa: N801, D106 - an attribute of a channel
        frame_max = 131_072

    def send(self, sent: bytes, address: tuple[str, str, str]) -> bytes:
        """Return the frames and the address."""
        return sent + repr(address).encode()

    def publish(self, body: bytes, properties: dict[str, Any], exchange: str, routing_key: str) -> bytes:
        """Return the frames and the address of a message that is not encoded yet."""
        sent = frames.encode(1, self.connection.frame_max, (exchange, routing_key), properties, body)
        return self.send(sent, (properties["correlation_id"], exchange, routing_key))


class StillApp(BrokerApp):
    """An app whose clock stands still."""

    def now(self) -> datetime:
        """Return always the same moment."""
        return NOW


@contextmanager
def still_clocks() -> Iterator[None]:
    """Let the time of the message and the start of the call be the same for every call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: 1_800_000_000.25)
        patch.setattr(time, "monotonic", lambda: 5_000.0)
        yield


def make_app(folder: Path) -> BrokerApp:
    """Return an app that sends nothing, with tasks of several kinds."""
    file = folder / "broker.toml"
    file.write_text(CONFIG, encoding="utf-8")
    app = StillApp("single", config=file, set_as_current=False)
    app.conf.result_backend = "disabled://"
    app.conf.task_ignore_result = True
    app.conf.accept_content = ["json", "pickle"]
    loaded = app.settings
    publisher = KeepingPublisher(app, loaded.routing_table(), loaded.prefix, 5.0)
    publisher.kept = []
    app.amqp.publisher = publisher
    kinds: dict[str, dict[str, Any]] = {
        "plain": {},
        "optioned": {"queue": "lopri", "serializer": "pickle", "ignore_result": False, "time_limit": 9},
        "urgent": {"priority": 7, "expires": 60, "typing": False},
    }
    for name, options in kinds.items():
        app.task(name=name, **options)(_run)
    return app


def _run(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


@pytest.fixture(autouse=True)
def no_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the receivers of publish signals that other tests have left in this process."""
    for signal in (signals.before_task_publish, signals.after_task_publish):
        monkeypatch.setattr(signal, "receivers", [])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> BrokerApp:
    """Return the app of the tests that change nothing in it."""
    return make_app(tmp_path_factory.mktemp("single"))


def outcome(app: BrokerApp, call: Callable[[], Any]) -> tuple[Any, type | None]:
    """Return what a call did, and the class of its message."""
    kept: list[OutgoingMessage] = app.amqp.publisher.kept
    kept.clear()
    try:
        with still_clocks():
            result = call()
    except Exception as error:  # noqa: BLE001 - any error must be the same
        return (type(error), str(error)), None
    sent: Any = kept[0].publish_on(Wire())  # type: ignore[arg-type] # stands for a channel
    told = (result.id, result.ignored, type(result), kept[0].due, kept[0].spec, app.amqp.publisher.limits)
    return (sent, told), type(kept[0])


def both_ways(app: BrokerApp, call: Callable[[], Any]) -> type | None:
    """Make the call as Celery does and from a template, compare, and return the class of the last message."""
    finder: Any = app._single_calls
    finder.find = lambda *_: None
    by_celery, _ = outcome(app, call)
    del finder.find
    kind: type | None = None
    for _ in range(3):  # seen, made into a template, used
        ours, kind = outcome(app, call)
        assert ours == by_celery
    return kind


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGS = st.none() | st.lists(VALUES, max_size=3) | st.lists(VALUES, max_size=3).map(tuple) | st.just("text")
KWARGS = st.none() | st.dictionaries(st.text(max_size=5), VALUES, max_size=2)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "queue": st.sampled_from([None, "default", "lopri", "lopry"]),
    "priority": st.sampled_from([None, 0, 3, 9, 10, True, 4.0]),
    "countdown": st.sampled_from([None, 0, 0.04, 0.5, 10, 3_600.2, -1, "1"]),
    "eta": st.sampled_from([None, LATER, LATER.isoformat(), NOW - timedelta(days=1), "soon"]),
    "expires": st.sampled_from([None, 0, 5, 2.5, 1e10, -1, True, LATER, LATER.isoformat()]),
    "serializer": st.sampled_from([None, "json", "pickle", "yaml", "nothing"]),
    "compression": st.sampled_from([None, "zlib"]),
    "ignore_result": st.sampled_from([None, True, False]),
    "time_limit": st.sampled_from([None, 1, 2.5, True]),
    "soft_time_limit": st.sampled_from([None, 1]),
    "shadow": st.sampled_from([None, "other", "\ud800"]),
    "retries": st.sampled_from([None, 0, 2]),
    "retry": st.booleans(),
    "confirm_timeout": st.sampled_from([None, 1, 7.5, -1]),
    "headers": st.sampled_from([None, {}, {"own": 1}]),
    "link": st.sampled_from([None, []]),
    "group_id": st.sampled_from([None, "group"]),
    "root_id": st.sampled_from([None, "root"]),
    "reply_to": st.sampled_from([None, "somebody"]),
    "exchange": st.sampled_from([None, "", "elsewhere"]),
    "routing_key": st.sampled_from([None, "key"]),
    "message_id": st.sampled_from([None, "m"]),
    "add_to_parent": st.booleans(),
}
CALL_OPTIONS = st.lists(st.sampled_from(sorted(OPTIONS)), unique=True, max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({name: OPTIONS[name] for name in names})
)
IDS = st.sampled_from(["1", "0b4f5ffe-9a14-4e0e-8d4c-1f0b5a8f1c55", "ä" * 63, "x" * 64, "x" * 255, "", 5])


@settings(max_examples=100, deadline=None)
@example("plain", (), None, "1", {"countdown": 10, "expires": 5})
@given(st.sampled_from(["plain", "optioned", "urgent"]), ARGS, KWARGS, IDS, CALL_OPTIONS)
def test_each_call_is_the_one_that_celery_makes(
    app: BrokerApp, name: str, args: Any, kwargs: Any, task_id: Any, options: dict[str, Any]
) -> None:
    """Whatever arguments and options it has: the same frames, result and time limit, or the same error."""
    if not task_id:
        task_id = "given"
    task = app.tasks[name]
    both_ways(app, lambda: task.apply_async(args, kwargs, task_id=task_id, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "lopri"},
        {"priority": 9},
        {"countdown": 10},
        {"eta": LATER},
        {"expires": 5},
        {"serializer": "pickle"},
        {"ignore_result": False, "time_limit": 3, "shadow": "other", "retry": False, "confirm_timeout": 3},
    ],
)
def test_a_plain_call_comes_from_a_template(app: BrokerApp, options: dict[str, Any]) -> None:
    """Queue, priority, delay, expiry, limits and serializer need no Celery from the third call on."""
    call = app.tasks["plain"]
    assert (
        both_ways(app, lambda: call.apply_async((1, "ü"), {"y": [2]}, task_id="1", **options)) is TemplatedMessage
    )


def test_each_call_has_its_own_id(app: BrokerApp) -> None:
    """Without a task_id, each message and its result have a new one."""
    ids = {app.tasks["plain"].delay(1).id for _ in range(5)}
    assert ids == {outgoing.task_id for outgoing in app.amqp.publisher.kept[-5:]}
    assert len(ids) == 5


class Loud(celery.Task):
    """A task whose calls go by its own method."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish with a header."""
        return super().apply_async(args, kwargs, **{**options, "headers": {"loud": True}})


def _receiver(headers: dict[str, Any] | None = None, **_: Any) -> None:
    (headers or {})["received"] = True


def _compress(app: BrokerApp) -> None:
    app.conf.task_compression = "zlib"


def _protocol(app: BrokerApp) -> None:
    app.conf.update(task_protocol=1)


def _level(app: BrokerApp) -> None:
    app.conf.add_defaults({"task_compression": "zlib"})


def _route(app: BrokerApp) -> None:
    app.amqp.router = Router([lambda *_, **__: {"queue": "lopri"}], app.amqp.queues, app=app)


def _message(app: BrokerApp) -> None:
    made = app.amqp.as_task_v2
    app.amqp.as_task_v2 = lambda *args, **options: made(*args, **{**options, "shadow": "replaced"})
    app.amqp.__dict__.pop("create_task_message", None)


def _send(app: BrokerApp) -> None:
    send = app.amqp.publisher.send
    app.amqp.send_task_message = lambda *args, **options: send(*args, **{**options, "priority": 1})


@pytest.mark.parametrize("change", [_compress, _protocol, _level, _route, _message, _send])
def test_a_change_of_celery_s_parts_takes_effect_at_once(tmp_path: Path, change: Callable[[Any], None]) -> None:
    """A setting or a part that is replaced after templates were made is in the next message."""
    app = make_app(tmp_path)
    task = app.tasks["plain"]
    assert both_ways(app, lambda: task.apply_async((1,), task_id="1")) is TemplatedMessage
    change(app)
    assert both_ways(app, lambda: task.apply_async((1,), task_id="1")) is not TemplatedMessage


def test_signals_see_each_message(tmp_path: Path) -> None:
    """A receiver that is connected after templates were made sees the next message, and may change it."""
    app = make_app(tmp_path)
    task = app.tasks["plain"]
    both_ways(app, lambda: task.apply_async((1,), task_id="1"))
    for signal in (signals.before_task_publish, signals.after_task_publish):
        signal.connect(_receiver)
        try:
            assert both_ways(app, lambda: task.apply_async((1,), task_id="1")) is not TemplatedMessage
        finally:
            signal.disconnect(_receiver)
    assert both_ways(app, lambda: task.apply_async((1,), task_id="1")) is TemplatedMessage


def test_an_instrumented_celery_is_called(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces Celery's `send_task`, as a tracer does, sees each call."""
    real, seen = celery.Celery.send_task, []

    def send_task(*args: Any, **options: Any) -> Any:
        seen.append(args[1])
        return real(*args, **options)

    app.tasks["plain"].delay()
    monkeypatch.setattr(celery.Celery, "send_task", send_task)
    for _ in range(3):
        app.tasks["plain"].delay()
    assert seen == ["plain"] * 3


def test_a_task_with_its_own_apply_async_keeps_it(app: BrokerApp) -> None:
    """Its own method is called each time, and its message is what that method says."""
    loud = app.task(name="loud", base=Loud)(_run)
    for _ in range(3):
        loud.delay()
        assert app.amqp.publisher.kept[-1].properties["application_headers"]["loud"] is True


def test_a_message_that_is_sent_again_says_so(app: BrokerApp) -> None:
    """Changed properties are encoded anew: the header that marks a possible second copy is sent."""
    task = app.tasks["plain"]
    assert both_ways(app, lambda: task.apply_async((1,), task_id="1")) is TemplatedMessage
    (outgoing,) = app.amqp.publisher.kept
    before: Any = outgoing.publish_on(Wire())
    outgoing.properties["application_headers"]["broker_app_maybe_twice"] = True
    after: Any = outgoing.publish_on(Wire())
    assert b"maybe_twice" not in before
    assert b"maybe_twice" in after
