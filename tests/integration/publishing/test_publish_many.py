"""Publishing many tasks at once: messages, outcomes and their order."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from apps import delete, depth, take
from celery import chain, chord, group, signals
from celery.app.trace import build_tracer
from ending import END_SECONDS
from kombu.entity import Exchange

from broker_app import publish_many
from broker_app.errors import (
    CallError,
    InvalidDelay,
    InvalidPriority,
    NoRoute,
    PublishRefused,
    QueueFull,
    UnknownQueue,
)
from broker_app.publishing.bulk.window import WINDOW_ITEMS
from broker_app.queues.headers import DELAY_HEADER, MAYBE_TWICE_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps import AppMaker, MakeUser
    from kombu.message import Message

    from broker_app import BrokerApp
    from broker_app.publishing.bulk import ItemOutcome

MOMENTS = ("eta", "expires", PUBLISHED_AT_HEADER)
"""Headers that depend on when the call was made."""

SOON = datetime.now(UTC) + timedelta(days=1, hours=12)
"""In the lanes of one day and some hours, however long the tests before took."""


@pytest.fixture
def add(app: BrokerApp) -> Any:
    """Return a task of the app."""

    @app.task(name="shop.add")
    def add(x: int, y: int = 0, **more: Any) -> int:
        del more
        return x + y

    return add


def outcomes_of(app: BrokerApp, signatures: Any) -> list[ItemOutcome]:
    """Publish all, and return what became of them."""
    return list(app.publish_many(signatures))


def facts(message: Message, task_id: str) -> dict[str, Any]:
    """Return all that a message says, its own id and its moments replaced."""
    headers = {
        name: "a moment" if name in MOMENTS and value is not None else value
        for name, value in message.headers.items()
    }
    headers = {name: "its id" if value == task_id else value for name, value in headers.items()}
    properties = {
        name: "its id" if value == task_id else value
        for name, value in message.properties.items()
        if name != "application_headers"
    }
    body = message.body.encode() if isinstance(message.body, str) else message.body
    return {"headers": headers, "properties": properties, "body": bytes(body), "type": message.content_type}


# The messages

SIGNATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "texts": {"args": ("it's", 'a "b" \\ ü\n', ""), "kwargs": {"z": "x"}},
    "one argument": {"args": (1,)},
    "a list of arguments": {"args": [1, 2]},
    "long texts": {"args": ("x" * 2_000, "y" * 1_000)},
    "nested": {"args": ({"a": [1, {"b": None}]},), "kwargs": {"y": [1, 2, (3,)]}},
    "moments": {"args": (datetime(2030, 1, 1, tzinfo=UTC), uuid4())},
    "queue": {"queue": "lopri"},
    "queue and limits": {"queue": "lopri", "time_limit": 30, "soft_time_limit": 20, "ignore_result": True},
    "priority": {"queue": "ranked", "priority": 7},
    "default priority": {"queue": "ranked"},
    "id": {"task_id": "an id of mine"},
    "countdown": {"countdown": 3_600.25},
    "countdown below a second": {"countdown": 0.05},
    "no countdown": {"countdown": 0},
    "eta": {"eta": SOON},
    "eta as text": {"eta": SOON.isoformat(), "queue": "lopri"},
    "expires": {"expires": 60},
    "expires, fractions": {"expires": 60.5, "queue": "lopri"},
    "expires at a moment": {"expires": SOON},
    "expires after it is due": {"expires": 7_200, "countdown": 3_600},
    "headers": {"headers": {"tenant": "a", "n": 1}},
    "shadow": {"shadow": "another name"},
    "group and root": {"group_id": "g", "group_index": 3, "root_id": "r", "parent_id": "p"},
    "reply to": {"reply_to": "somewhere", "message_id": "m", "app_id": "shop"},
    "own representation": {"argsrepr": "<secret>"},
    "compressed": {"compression": "zlib"},
    "pickled": {"serializer": "pickle"},
}


@pytest.mark.parametrize("kind", SIGNATURES)
def test_a_message_is_the_one_that_apply_async_sends(make_app: AppMaker, kind: str) -> None:
    """Field by field, for each kind of call, whether it is the first of its kind or the hundredth."""
    queues = "[queues.default]\n[queues.lopri]\n[queues.ranked]\ntype = 'classic'\npriorities = true\n"
    app = make_app(queues, accept_content=["json", "pickle"])

    @app.task(name="shop.any")
    def anything(*args: Any, **kwargs: Any) -> None:
        del args, kwargs

    options = dict(SIGNATURES[kind])
    args, kwargs = options.pop("args", (1, 2)), options.pop("kwargs", {})
    expected = anything.signature(args, kwargs, **options).apply_async().id
    outcomes = outcomes_of(app, [anything.signature(args, kwargs, **options) for _ in range(3)])
    assert [outcome.error for outcome in outcomes] == [None] * 3
    ids = [expected, *(outcome.task_id for outcome in outcomes)]
    held = "delay.1d" if "eta" in options else "delay.1h" if options.get("countdown", 0) > 1 else None
    messages = take(app, held or options.get("queue", "default"))
    found = [facts(message, task_id) for message, task_id in zip(messages, ids, strict=True)]
    if "eta" in options:  # the delay is the rest of it
        for one in found:
            assert one["headers"].pop(DELAY_HEADER) == pytest.approx(36 * 3_600, abs=7_200)  # since the collection
    assert found[1:] == [found[0]] * 3


def test_moments_are_each_calls_own(app: BrokerApp, add: Any) -> None:
    """The expiry of each item counts from the moment at which that item was published."""

    def signatures() -> Iterator[Any]:
        for _ in range(3):
            yield add.signature((1,), expires=60)
            time.sleep(0.02)

    outcomes_of(app, signatures())
    messages = take(app, "default")
    for message in messages:
        expires = datetime.fromisoformat(message.headers["expires"]).timestamp()
        assert expires - message.headers[PUBLISHED_AT_HEADER] == pytest.approx(60, abs=1)
    assert len({message.headers["expires"] for message in messages}) == 3


def test_a_tasks_own_options_hold(make_app: AppMaker) -> None:
    """Queue, priority, expiry and limits of the task itself are those of each call that says nothing else."""
    app = make_app("[queues.default]\n[queues.ranked]\ntype = 'classic'\npriorities = true\n")

    @app.task(name="shop.own", queue="ranked", priority=8, expires=90, time_limit=5)
    def own() -> None:
        pass

    outcomes_of(app, [own.s(), own.s(), own.s().set(expires=None), own.s().set(priority=1)])
    messages = take(app, "ranked")
    assert [message.properties["priority"] for message in messages] == [8, 8, 8, 1]
    assert [message.headers["expires"] is None for message in messages] == [False, False, True, False]
    assert all(message.headers["timelimit"] == [5, None] for message in messages)


def test_callbacks_and_stamps_are_carried(app: BrokerApp, add: Any) -> None:
    """`link`, `link_error` and stamps are in each message as `apply_async` writes them."""
    signature = add.signature((1, 2))
    signature.link(add.s(3))
    signature.link_error(add.s(4))
    signature.stamp(tenant="a")
    expected = signature.clone().apply_async().id
    outcomes = outcomes_of(app, [signature.clone(), signature.clone()])
    ids = [expected, *(outcome.task_id for outcome in outcomes)]
    found = [facts(message, task_id) for message, task_id in zip(take(app, "default"), ids, strict=True)]
    assert found[1:] == [found[0]] * 2
    assert b'"callbacks": [{' in found[0]["body"]
    assert found[0]["headers"]["stamps"] == {"tenant": "a"}


def test_a_canvas_goes_by_its_own_way(app: BrokerApp, add: Any) -> None:
    """Chains, groups and chords are published as `apply_async` does, in their place, and counted as such."""
    run = app.publish_many([add.s(1, 1), chain(add.s(1), add.s(2)), group(add.s(1), add.s(2)), add.s(4, 4)])
    outcomes = list(run)
    assert [outcome.is_alone for outcome in outcomes] == [False, True, True, False]
    assert run.totals.alone == 2
    assert depth(app, "default") == 5


def test_a_chord_is_published_whole(make_app: AppMaker, tmp_path: Any) -> None:
    """A chord is one accepted item, and all tasks of its header are on the broker."""
    app = make_app("result_url = 'db+sqlite:///" + str(tmp_path / "results.sqlite3") + "'\n[queues.default]\n")

    @app.task(name="shop.add")
    def add(x: int) -> int:
        return x

    outcomes = outcomes_of(app, [chord([add.s(1), add.s(2)], add.si(3))])
    assert [(outcome.accepted, outcome.is_alone) for outcome in outcomes] == [(True, True)]
    tasks = [message.headers["task"] for message in take(app, "default")]
    assert tasks.count("shop.add") == 2


def test_a_task_that_only_the_workers_know(app: BrokerApp) -> None:
    """A signature of a name is published by that name."""
    outcomes = outcomes_of(app, [app.signature("far.away", args=(n,), queue="lopri") for n in range(3)])
    assert [outcome.queue for outcome in outcomes] == ["lopri"] * 3
    assert [message.headers["task"] for message in take(app, "lopri")] == ["far.away"] * 3


def test_a_signature_that_was_serialised(app: BrokerApp, add: Any) -> None:
    """One that came as JSON is a signature again."""
    assert [one.accepted for one in outcomes_of(app, [dict(add.s(1, 2)), dict(group(add.s(1), add.s(2)))])] == [
        True
    ] * 2
    assert depth(app, "default") == 3


def test_inside_a_task_they_are_its_children(app: BrokerApp, add: Any) -> None:
    """They have the root and the parent of the task that publishes them."""

    @app.task(name="shop.parent")
    def parent() -> None:
        outcomes_of(app, [add.s(1, 1), add.s(2, 2)])

    trace = build_tracer(parent.name, parent, app=app)
    trace(
        "the parent", (), {}, {"id": "the parent", "root_id": "the root", "delivery_info": {}, "is_eager": False}
    )
    messages = take(app, "default")
    assert [(one.headers["root_id"], one.headers["parent_id"]) for one in messages] == [
        ("the root", "the parent")
    ] * 2


def test_a_router_that_looks_at_the_arguments_is_asked_each_time(make_app: AppMaker) -> None:
    """A route of the user's own is not taken for another task's."""
    app = make_app()

    def route(name: str, args: Any, kwargs: Any, options: Any, **more: Any) -> Any:
        del name, kwargs, options, more
        return {"queue": "lopri" if args[0] % 2 else "default"}

    app.conf.task_routes = (route,)
    assert [one.queue for one in outcomes_of(app, [app.signature("any", args=(n,)) for n in range(4)])] == [
        "default",
        "lopri",
        "default",
        "lopri",
    ]


def test_a_task_with_its_own_way_of_publishing_keeps_it(app: BrokerApp) -> None:
    """A task class that overrides `apply_async` is called for each."""

    class Stamping(app.Task):  # type: ignore[name-defined]  # Celery makes the class
        """A task that adds a header of its own."""

        def apply_async(self, *args: Any, **options: Any) -> Any:
            """Publish with the header."""
            return super().apply_async(*args, **options, headers={"stamped": True})

    @app.task(name="shop.stamping", base=Stamping)
    def stamping() -> None:
        pass

    assert [one.is_alone for one in outcomes_of(app, [stamping.s(), stamping.s()])] == [True, True]
    assert all(message.headers["stamped"] for message in take(app, "default"))


def test_signals_see_and_change_each_message(app: BrokerApp, add: Any) -> None:
    """`before_task_publish` may add a header to each; `after_task_publish` is sent for accepted tasks only."""
    after = []

    def before(headers: dict[str, Any], **_: Any) -> None:
        headers["tenant"] = "a"

    def told(headers: dict[str, Any], body: Any, **_: Any) -> None:
        after.append((headers["id"], body[0]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(told)
    try:
        outcomes = outcomes_of(app, [add.s(n, n) for n in range(3)])
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(told)
    assert after == [(outcome.task_id, (n, n)) for n, outcome in enumerate(outcomes)]
    assert all(message.headers["tenant"] == "a" for message in take(app, "default"))


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 300_000])
def test_a_body_of_any_size_arrives_whole(app: BrokerApp, size: int) -> None:
    """Also one that needs several frames."""
    outcomes = outcomes_of(app, [app.signature("big", args=("x" * size,)) for _ in range(2)])
    assert [outcome.accepted for outcome in outcomes] == [True, True]
    assert [message.decode()[0] for message in take(app, "default")] == [["x" * size]] * 2


# The outcomes


def test_outcomes_come_in_order_with_their_ids(app: BrokerApp, add: Any) -> None:
    """More than the window holds, each once, in the order of the signatures, and the broker has them in it too."""
    count = 2 * WINDOW_ITEMS + 500
    outcomes = outcomes_of(app, (add.s(n) for n in range(count)))
    assert [outcome.number for outcome in outcomes] == list(range(count))
    assert all(outcome.accepted and outcome.queue == "default" for outcome in outcomes)
    messages = take(app, "default")
    assert [message.headers["id"] for message in messages] == [outcome.task_id for outcome in outcomes]
    assert not any(MAYBE_TWICE_HEADER in message.headers for message in messages)


def test_no_more_is_read_than_is_on_its_way(app: BrokerApp, add: Any) -> None:
    """A generator is read as the broker answers, never further ahead of the outcomes than the window."""
    read = 0

    def signatures() -> Iterator[Any]:
        nonlocal read
        for n in range(5 * WINDOW_ITEMS):
            read += 1
            yield add.s(n)

    run = app.publish_many(signatures())
    ahead = [read - outcome.number for outcome in run]
    assert max(ahead) <= WINDOW_ITEMS + 1


def test_what_cannot_be_is_told_in_its_place(app: BrokerApp, add: Any) -> None:
    """A refused item says why, and the others are published."""
    bad = [
        add.s(1).set(queue="lopri_typo"),
        add.s(1).set(priority=3),
        add.s(1).set(countdown=-1),
        add.s(),
        add.s(object()),
        add.s(1).set(expires=5, countdown=60),
        add.s(1).set(expires=float("nan")),
        add.s(1).set(task_id=7),
        add.s(1).set(task_id="x" * 300),
        add.s(1).set(headers={"x": object()}),
        add,
        "shop.add",
        {"task": "shop.add"},
    ]
    given = [add.s(0), *(one for fault in bad for one in (fault, add.s(1)))]
    outcomes = outcomes_of(app, given)
    kinds = [type(outcome.error) for outcome in outcomes[1::2]]
    assert kinds[:4] == [UnknownQueue, InvalidPriority, InvalidDelay, TypeError]
    assert kinds[5:9] == [InvalidDelay, InvalidDelay, CallError, PublishRefused]
    assert kinds[9:] == [PublishRefused, CallError, CallError, CallError]
    assert not any("\n" in str(outcome.error) for outcome in outcomes)
    assert all(outcome.error is not None and not outcome.maybe_taken for outcome in outcomes[1::2])
    assert all(outcome.accepted for outcome in outcomes[::2])
    assert depth(app, "default") == 1 + len(bad)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "3"])
def test_a_time_out_that_cannot_be_is_said_at_once(app: BrokerApp, add: Any, seconds: Any) -> None:
    """No signature is read, and the error says what was expected."""
    with pytest.raises(InvalidDelay, match="timeout_seconds must be a number of seconds above 0"):
        app.publish_many([add.s(1)], timeout_seconds=seconds)


def test_a_full_queue_refuses_each_item(app: BrokerApp) -> None:
    """Items beyond the limit of a full queue are refused one by one, and the outcomes say which."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.exchange_declare("full", "fanout", durable=True, auto_delete=False)
        channel.queue_declare(
            "full", durable=True, auto_delete=False, arguments={"x-max-length": 2, "x-overflow": "reject-publish"}
        )
        channel.queue_bind("full", "full")
    exchange = Exchange("full", "fanout")
    outcomes = outcomes_of(app, [app.signature("any", exchange=exchange, routing_key="x") for _ in range(5)])
    assert [type(outcome.error) for outcome in outcomes] == [type(None)] * 2 + [QueueFull] * 3


def test_a_deleted_queue_is_declared_again(app: BrokerApp, add: Any) -> None:
    """Items returned because their queue was deleted are sent once more and accepted, without a mark."""

    def signatures() -> Iterator[Any]:
        for n in range(300):
            if n == 150:
                delete(app, "default")
            yield add.s(n)

    outcomes = outcomes_of(app, signatures())
    assert all(outcome.accepted and not outcome.maybe_twice for outcome in outcomes)
    assert (depth(app, "default") or 0) >= 150


def test_one_offence_does_not_take_its_neighbours_with_it(app: BrokerApp, add: Any) -> None:
    """An exchange that is not there closes the channel: that item says so, all others are confirmed."""
    given = [add.s(n) for n in range(50)]
    given[20] = app.signature("any", exchange="nowhere", routing_key="x")
    outcomes = outcomes_of(app, given)
    assert [outcome.number for outcome in outcomes if not outcome.accepted] == [20]
    assert isinstance(outcomes[20].error, NoRoute)
    copies = [message.headers["id"] for message in take(app, "default")]
    sure = {outcome.task_id for outcome in outcomes if outcome.accepted and not outcome.maybe_twice}
    assert set(copies) == {outcome.task_id for outcome in outcomes if outcome.accepted}
    assert all(copies.count(one) == 1 for one in sure)


def test_without_the_right_to_write_each_is_refused(make_app: AppMaker, make_user: MakeUser) -> None:
    """Each item says that the broker refused it."""
    make_app().send_task("any")
    app = make_app(url=make_user(read=".*"))
    outcomes = outcomes_of(app, [app.signature("any") for _ in range(3)])
    assert [type(outcome.error) for outcome in outcomes] == [PublishRefused] * 3


def test_an_exception_of_the_signatures_comes_after_the_outcomes(app: BrokerApp, add: Any) -> None:
    """Items read before the error are published and reported, then it is raised."""

    def signatures() -> Iterator[Any]:
        yield add.s(1)
        yield add.s(2)
        raise LookupError("no more")

    found: list[ItemOutcome] = []
    with pytest.raises(LookupError, match="no more"):
        app.publish_many(signatures()).run(found.append)
    assert [outcome.accepted for outcome in found] == [True, True]
    assert depth(app, "default") == 2


def test_stopping_early_leaves_the_connection_usable(app: BrokerApp, add: Any) -> None:
    """A caller that leaves the loop early can go on publishing."""
    with app.publish_many(add.s(n) for n in range(3_000)) as run:
        next(run)
    app.send_task("after")
    assert outcomes_of(app, [add.s(1)])[0].accepted


def test_what_was_never_begun_says_so(app: BrokerApp, add: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is sent before the first outcome is asked for, and a forgotten run is an error in the log."""
    with caplog.at_level(logging.ERROR):
        app.publish_many([add.s(1)])
    assert "nothing was sent" in caplog.text
    assert depth(app, "default") is None


def test_the_app_is_the_signatures(add: Any) -> None:
    """`publish_many` publishes by the app that the first task belongs to; nothing at all needs no app."""
    assert publish_many([]).run().accepted == 0
    outcomes = list(publish_many([add.s(1), add.s(2)]))
    assert [outcome.accepted for outcome in outcomes] == [True, True]


def test_delays_go_by_their_lanes(app: BrokerApp, add: Any) -> None:
    """Each item has its own delay, and the lanes are there before it is sent."""
    outcomes = outcomes_of(app, [add.s(n).set(countdown=3_600 * (n % 3 + 1)) for n in range(9)])
    assert all(outcome.accepted for outcome in outcomes)
    assert [depth(app, f"delay.{hours}h") for hours in (1, 2, 3)] == [3, 3, 3]


def test_memory_does_not_grow_with_their_number(app: BrokerApp) -> None:
    """Twenty thousand items from a generator need at most 30 MB more than two thousand."""
    script = """
import resource, sys
from broker_app import BrokerApp
app = BrokerApp("memory", config=sys.argv[1])
for count in (2_000, 20_000):
    signatures = (app.signature("any", args=(n, "x" * 100)) for n in range(count))
    assert app.publish_many(signatures).run().accepted == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command = [sys.executable, "-c", script, str(app.config_file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=END_SECONDS)
    first, last = map(int, done.stdout.split())
    assert (last - first) / 1_024 < 30  # kilobytes on Linux, getrusage(2)
