"""Refusals by the broker, each matched to its own message."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import celery
import pytest
from apps import depth, take
from brokers import vhost_of
from ending import joined
from kombu.exceptions import EncodeError

from broker_app import publish_many
from broker_app.broker import new_queues
from broker_app.errors import (
    CallError,
    NoRoute,
    NotEncodable,
    PublishRefused,
    QueueFull,
)
from broker_app.wire.confirm_channel import ConfirmChannel, ConfirmOutcome

if TYPE_CHECKING:
    from apps import AppMaker
    from brokers import Management
    from kombu.message import Message

    from broker_app import BrokerApp


def _limit(management: Management, url: str, queue: str, length: int) -> None:
    """Bound a queue that is not there yet, with a policy: it is in force from the queue's first moment on."""
    policy = {"pattern": f"^{queue}$", "definition": {"max-length": length}, "apply-to": "queues"}
    management.put(f"policies/{vhost_of(url)}/{queue}", policy)


def _fill(app: BrokerApp, queue: str, **options: Any) -> None:
    """Publish until the queue says that it is full: quorum queues take a few more than their limit."""
    for _ in range(50):
        try:
            app.send_task("fill", queue=queue, **options)
        except QueueFull:
            return
    raise AssertionError("the queue was never full")


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_full_queue_is_an_error_with_a_sentence(
    make_app: AppMaker, management: Management, fresh_vhost_url: str, kind: str
) -> None:
    """The task is not in the queue, the text says why and what to do, and room is all that it takes."""
    app = make_app(f"[queues.default]\n[queues.lopri]\ntype = '{kind}'\n")
    _limit(management, fresh_vhost_url, "lopri", 2)
    app.send_task("shop.add", queue="lopri")
    _fill(app, "lopri")
    with pytest.raises(
        QueueFull, match=r"for queue 'lopri': .*length limit.*it was not published; wait"
    ) as caught:
        app.send_task("shop.mul", queue="lopri")
    assert caught.value.maybe_taken is False
    assert {message.headers["task"] for message in take(app, "lopri")} == {"shop.add", "fill"}
    app.send_task("shop.add", queue="lopri")


@pytest.mark.version
@pytest.mark.parametrize("is_bulk", [False, True])
def test_a_lane_that_refuses_is_asked_again(
    make_app: AppMaker, management: Management, fresh_vhost_url: str, *, is_bulk: bool
) -> None:
    """A delay lane without a leader, or with a cap for a moment, refuses: a call lasts until the lane takes it."""
    app, policy = make_app(), f"policies/{vhost_of(fresh_vhost_url)}/cap"
    cap = {"pattern": r"^delay\.\d+s$", "definition": {"max-length": 1}, "apply-to": "queues"}
    management.put(policy, cap)
    _fill(app, "lopri", countdown=40, retry=False)
    lifting = threading.Timer(1, management.delete, [policy])
    lifting.daemon = True
    lifting.start()
    if is_bulk:
        publish_many([app.signature("shop.add", queue="lopri", countdown=40)], app=app).run()
    else:
        app.send_task("shop.add", queue="lopri", countdown=40)
    joined(lifting)
    held = [message for seconds in range(5, 41) for message in _held(app, f"delay.{seconds}s")]
    assert [message.headers["task"] for message in held].count("shop.add") == 1


@pytest.mark.version
@pytest.mark.parametrize("call", ["single", "bulk", "awaited bulk"])
def test_a_new_queue_that_refuses_is_asked_again(
    make_app: AppMaker,
    management: Management,
    fresh_vhost_url: str,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """A new queue without a leader, or with a cap for a moment, refuses: a call lasts until it takes the task."""
    monkeypatch.setattr(new_queues, "NEW_SECONDS", 600.0)
    app = make_app()
    _limit(management, fresh_vhost_url, "lopri", 1)
    _fill(app, "lopri", retry=False)

    def lift() -> None:
        _limit(management, fresh_vhost_url, "lopri", 100_000)  # without a limit, 3.10 goes on refusing
        with app.connection_for_write() as connection:  # it notices at the next command that the queue has room
            connection.default_channel.basic_get("lopri", no_ack=True)

    lifting = threading.Timer(1, lift)
    lifting.daemon = True
    lifting.start()
    if call == "single":
        app.send_task("shop.add", queue="lopri", confirm_timeout=60)
    else:
        _publish_one(app, is_awaited=call == "awaited bulk")
    joined(lifting)
    assert [message.headers["task"] for message in take(app, "lopri")].count("shop.add") == 1


def _publish_one(app: BrokerApp, *, is_awaited: bool) -> None:
    calls = [app.signature("shop.add", queue="lopri")]
    if not is_awaited:
        publish_many(calls, app=app, timeout_seconds=60).run()
        return

    async def publish() -> None:
        async for outcome in app.apublish_many(calls, timeout_seconds=60):
            assert outcome.error is None

    asyncio.run(publish())


def _held(app: BrokerApp, lane: str) -> list[Message]:
    return take(app, lane) if depth(app, lane) else []


def test_every_answer_is_matched_to_its_own_message(
    app: BrokerApp, management: Management, fresh_vhost_url: str
) -> None:
    """On one connection: a returned task, then one that is refused, then one that is taken. No ack is mistaken.

    py-amqp takes the ack that follows a returned message for the next one's, and would call the refused taken.
    """
    _limit(management, fresh_vhost_url, "lopri", 1)
    _fill(app, "lopri")
    full_depth = depth(app, "lopri")
    with app.connection_for_write() as connection:
        for _ in range(5):
            with pytest.raises(NoRoute):
                app.send_task("lost", exchange="tasks.dead", routing_key="nobody", connection=connection)
            with pytest.raises(QueueFull):
                app.send_task("refused", queue="lopri", connection=connection)
            app.send_task("taken", queue="default", connection=connection)
            with pytest.raises(NoRoute):
                app.send_task("lost", exchange="not-there", routing_key="nobody", connection=connection)
            app.send_task("taken", queue="default", connection=connection)
    assert depth(app, "lopri") == full_depth
    assert [message.headers["task"] for message in take(app, "default")] == ["taken"] * 10


def test_answers_are_matched_whatever_their_order(
    app: BrokerApp, management: Management, fresh_vhost_url: str
) -> None:
    """Many on their way at once, taken, returned and refused: each tag gets what became of its message."""
    _limit(management, fresh_vhost_url, "lopri", 1)
    app.send_task("shop.add", queue="default")
    _fill(app, "lopri")
    with app.connection_for_write() as connection:
        channel = ConfirmChannel.of(connection.connection)
        keys = {
            "default": ConfirmOutcome.CONFIRMED,
            "nobody": ConfirmOutcome.RETURNED,
            "lopri": ConfirmOutcome.REFUSED,
        }
        tags = [
            (channel.publish(b"x", {"correlation_id": f"{key}-{number}"}, "tasks", key), outcome)
            for number in range(30)
            for key, outcome in keys.items()
        ]
        deadline = time.monotonic() + 120
        for tag, outcome in reversed(tags):
            assert channel.wait(tag, deadline).outcome is outcome
    assert len(take(app, "default")) == 31


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"x": object()}},
        {"headers": {"x": "y" * 200_000}},
        {"headers": {"x" * 300: 1}},
        {"task_id": "x" * 300},
        {"exchange": "tasks.dead", "routing_key": "x" * 300},
        {"exchange": "tasks.dead", "routing_key": "x", "priority": 999},
    ],
    ids=["no AMQP type", "over a frame", "long header name", "long id", "long key", "priority over a byte"],
)
def test_what_amqp_cannot_carry_is_refused_and_hurts_nobody_else(app: BrokerApp, options: dict[str, Any]) -> None:
    """A typed error, and the next task on the same connection is confirmed on its own merits."""
    with app.connection_for_write() as connection:
        app.send_task("before", connection=connection)
        with pytest.raises(PublishRefused) as caught:
            app.send_task("bad", connection=connection, **options)
        assert caught.value.maybe_taken is False
        for _ in range(2):
            app.send_task("after", connection=connection, confirm_timeout=60)
    assert [message.headers["task"] for message in take(app, "default")] == ["before", "after", "after"]


@pytest.mark.version
def test_a_body_over_the_brokers_limit_is_refused(app: BrokerApp, broker_version: tuple[int, ...]) -> None:
    """16 MiB by default since 4.0, 128 MiB before: the error says so, and the next task is fine."""
    app.send_task("before")
    if broker_version >= (4, 0):
        with pytest.raises(PublishRefused, match=r"406 PRECONDITION_FAILED.*size"):
            app.send_task("big", ("x" * 17_000_000,))
    app.send_task("after")
    assert [message.headers["task"] for message in take(app, "default")] == ["before", "after"]


UNACCEPTED: list[dict[str, Any]] = [
    *({"link": "x"}, {"link": [{"task": 5}]}, {"link_error": "x"}, {"chain": ["x"]}, {"chord": "x"}),
    *({"time_limit": "x"}, {"soft_time_limit": -1}, {"time_limit": float("nan")}),
    *({"shadow": 4}, {"group_id": 4}, {"root_id": 4}, {"parent_id": 4}, {"compression": "zippy"}),
    *({"serializer": "pickle"}, {"serializer": "jsom"}, {"reply_to": 4}, {"headers": "x"}, {"headers": {1: 2}}),
    *({"message_id": 4}, {"argsrepr": 4}, {"stamped_headers": "x"}, {"stamped_headers": ["x"]}, {"retries": -1}),
]


def test_options_that_no_worker_accepts_are_refused_in_the_call(make_app: AppMaker) -> None:
    """A single call, a countdown and a bulk call with such an option raise the same error, and publish nothing."""
    app = make_app()
    for options in UNACCEPTED:
        for call in (options, options | {"countdown": 30}):
            with pytest.raises(CallError, match="expected"):
                app.send_task("shop.add", (1,), queue="lopri", **call)
    signatures = [app.signature("shop.add", (1,), queue="lopri", **options) for options in UNACCEPTED]
    outcomes = list(publish_many(signatures, app=app))
    assert [type(outcome.error) for outcome in outcomes] == [CallError] * len(UNACCEPTED)
    app.send_task("shop.add", (1,), queue="lopri", link=app.signature("shop.mul"), time_limit=5, shadow="s")
    assert len(take(app, "lopri")) == 1


@pytest.mark.parametrize("options", [{"qeue": "lopri"}, {"headers": "x"}, {"reply_to": 4}])
def test_a_canvas_with_a_bad_option_is_not_begun(make_app: AppMaker, options: dict[str, Any]) -> None:
    """A later member of a chain, a link, a group's member and a chord's body are checked as a call is."""
    app = make_app()
    good, bad = app.signature("shop.add"), app.signature("shop.mul", **options)
    group = celery.group([bad], app=app)
    linked = app.signature("shop.add").set(link=bad)
    for canvas in (celery.chain(good, bad, app=app), celery.chain(good, good, bad, app=app), group, linked):
        with pytest.raises(CallError, match=r"task shop.mul: .*(qeue|headers|reply_to)"):
            canvas.apply_async()
    app.send_task("shop.add")
    assert len(take(app, "default")) == 1


def test_an_argument_that_cannot_be_encoded_is_named(make_app: AppMaker) -> None:
    """Task, queue, place and type, for a single call, a countdown, and a bulk call with and without a template."""
    app = make_app()
    wrong = app.signature("shop.add", (1, {"when": [object()]}), queue="lopri")
    signatures = [wrong, app.signature("shop.add", queue="lopri"), wrong]
    errors = [outcome.error for outcome in publish_many(signatures, app=app)]
    for options in ({}, {"countdown": 30}):
        with pytest.raises(EncodeError) as caught:
            wrong.apply_async(**options)
        errors.append(caught.value)
    assert [type(error) for error in errors] == [NotEncodable, type(None), *[NotEncodable] * 3]
    for fact in ("shop.add", "'lopri'", "args[1]['when'][0]", "object"):
        assert all(fact in str(error) for error in errors if error is not None)
    assert len(take(app, "lopri")) == 1
