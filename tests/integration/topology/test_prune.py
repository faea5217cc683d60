"""Pruning delay lanes: unused ones go, and no message is lost, whoever publishes meanwhile."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import amqp
import pytest
from apps import TWO_QUEUES, depth, put, take
from ending import joined
from stopwatch import Stopwatch
from waiting import wait_until

from broker_app.broker import delay_lanes, scheduled
from broker_app.broker.access import connect
from broker_app.broker.declare import unbind_queue
from broker_app.errors import BrokerError, BrokerLocked, BrokerRefused
from broker_app.queues import Lane, Names
from broker_app.queues.delay import due_pattern, parse_lane
from broker_app.queues.topology import entry_binding
from broker_app.topology.prune import PruneResult, PruneTimeouts, prune

if TYPE_CHECKING:
    from collections.abc import Callable

    from apps import AppMaker, MakeUser
    from brokers import Management
    from kombu.connection import Connection
    from kombu.message import Message

    from broker_app import BrokerApp

SHORT = PruneTimeouts(count=1, declare=1, settle=0.5, trust=0.1)
"""For tests without a publisher: lanes from 4 s on may be removed."""
COUNT_SECONDS = 40
"""Longest time until the broker has counted (every 5 s) on a busy machine."""

UNUSED = ("2d", "7h", "8h", "33m", "40s")
NO_LANES = "common_lanes = []\n"


@pytest.fixture
def make(make_app: AppMaker, management: Management) -> Callable[..., BrokerApp]:
    """Return what makes apps that know the management API."""
    url = f"management_url = {json.dumps(management.url)}\n"
    return lambda settings=NO_LANES, **options: make_app(url + settings + TWO_QUEUES, **options)


@pytest.fixture
def app(make: Callable[..., BrokerApp]) -> BrokerApp:
    """Return an app with the queues and some unused lanes declared."""
    made = make()
    made.send_task("shop.add", queue="lopri")
    declare(made, *UNUSED)
    return made


def declare(app: BrokerApp, *words: str) -> None:
    """Declare lanes."""
    with connect(app) as connection:
        delay_lanes.declare(connection, map(parse_lane, words), app.settings.prefix, time.monotonic() + 60)


def on_broker(app: BrokerApp) -> set[str]:
    """Return the lanes that are on the broker."""
    return {lane.word for lane in scheduled.count_lanes(app)}


def hand_on(connection: Connection, message: Message, exchange: str) -> None:
    """Do with a message what its lane does when its time in it is over."""
    copy = amqp.Message(message.body, **dict(message.properties, application_headers=message.headers))
    put(connection.default_channel, copy, exchange, message.delivery_info["routing_key"])


def words(found: tuple[Lane, ...]) -> set[str]:
    """Return lanes as people write them."""
    return {lane.word for lane in found}


# Removed and kept lanes


@pytest.mark.version
def test_unused_lanes_go(app: BrokerApp) -> None:
    """They are gone from the broker, and the next task that needs one has it declared again."""
    done = prune(app, waits=SHORT)
    assert (words(done.removed), done.kept) == (set(UNUSED), ())
    assert on_broker(app) == set()

    app.send_task("shop.add", queue="lopri", countdown=7 * 3_600)
    assert depth(app, "delay.7h") == 1


@pytest.mark.version
def test_lanes_in_use_stay_and_all_shorter_ones_with_them(app: BrokerApp) -> None:
    """A task in a lane of hours may need any lane of minutes and seconds; longer lanes are removed."""
    app.send_task("shop.add", queue="lopri", countdown=7 * 3_600)
    done = prune(app, waits=SHORT)
    assert words(done.removed) == {"2d", "8h"}
    assert words(done.kept) == on_broker(app) == {"7h", "33m", "40s"}
    assert depth(app, "delay.7h") == 1


def test_common_and_short_lanes_stay(make: Callable[..., BrokerApp]) -> None:
    """Lanes of `common_lanes` stay, and so do short ones, which could fill and empty during a prune."""
    app = make('common_lanes = ["8h", "33m"]\n')
    declare(app, *UNUSED, "3s")
    assert words(prune(app, waits=SHORT).removed) == {"2d", "7h", "40s"}
    assert on_broker(app) == {"8h", "33m", "3s"}


@pytest.mark.version
def test_a_dry_run_changes_nothing(app: BrokerApp) -> None:
    """It lists the lanes at once."""
    app.send_task("shop.add", queue="lopri", countdown=7 * 3_600)
    would = prune(app, is_dry_run=True)
    assert (words(would.removed), words(would.kept)) == ({"2d", "8h"}, {"7h", "33m", "40s"})
    assert on_broker(app) == set(UNUSED)
    assert prune(app, is_dry_run=True) == would


def test_only_the_lanes_of_this_app_go(app: BrokerApp, make: Callable[..., BrokerApp]) -> None:
    """Those of another prefix on the same virtual host, and queues that only look like lanes, are not touched."""
    other = make(f'prefix = "shop."\n{NO_LANES}')
    declare(other, "5h")
    with app.connection_for_write() as connection:
        connection.default_channel.queue_declare("delay.90s", durable=True, auto_delete=False)
    prune(app, waits=SHORT)
    assert on_broker(other) == {"5h"}
    assert depth(app, "delay.90s") == 0


def test_nothing_to_do(make: Callable[..., BrokerApp]) -> None:
    """On an empty virtual host nothing goes and nothing is made."""
    app = make()
    assert prune(app, waits=SHORT) == PruneResult((), ())
    assert depth(app, "lopri") is None


# Messages that must survive


@pytest.mark.version
def test_a_lane_that_holds_what_its_queue_does_not_take_stays(app: BrokerApp) -> None:
    """Its depth is 0 and it is not empty: deleted, it would take the tasks of a full queue with it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": 1}
        channel.queue_declare("full", durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind("full", "tasks.due", due_pattern("full"))
        declare(app, "4s")
        for _ in range(100):  # RabbitMQ's bound is soft: some 32 at once get in
            channel.basic_publish(channel.prepare_message(b"theirs"), "delay", "0d.0h.0m.4s.0ms.full")

    def held() -> int:
        return scheduled.count_lanes(app)[parse_lane("4s")].held

    wait_until(lambda: held() and not depth(app, "delay.4s"), COUNT_SECONDS, "the lane to hold them")
    done = prune(app, waits=SHORT)

    assert (words(done.kept), words(done.removed)) == ({"4s"}, set(UNUSED))
    wait_until(lambda: held() + (depth(app, "full") or 0) == 100, COUNT_SECONDS, "the counts to be of one moment")


SECONDS = (40, 50)
STAGES = 6
PUBLISHING_SECONDS = 2.0

WAITS = PruneTimeouts(count=2, declare=3, settle=1)
"""Times that producers on a busy machine keep to; these begin before, while and after lanes are removed."""

PATIENT = "[publish]\ntimeout_seconds = 60\n"

READY_SECONDS = 150
"""For the calls before the prune; the machine may be busy."""


class Stage:
    """An app of its own whose producers have just seen all their lanes, and publish while they are pruned.

    Args:
        app: Its settings want the lanes of minutes to stay, or not.
        start: After how many seconds of the prune its producers begin.
    """

    def __init__(self, app: BrokerApp, start: float) -> None:
        self.app = app
        self.start = start
        self.published: list[str] = []
        self.errors: list[Exception] = []
        self.names = Names(app.settings.prefix)

    def run(self) -> None:
        """Let two producers see their lanes, empty these, and prune while both publish."""
        ways = [60 * minutes + seconds for minutes in (0, 1, 2) for seconds in SECONDS]
        declare(self.app, *UNUSED)
        ready, go = threading.Barrier(3), threading.Event()
        producers = [threading.Thread(target=self.produce, args=(ways, ready, go), daemon=True) for _ in range(2)]
        for producer in producers:
            producer.start()
        ready.wait(READY_SECONDS)
        self.drain([self.names.lane(lane) for lane in scheduled.count_lanes(self.app)])
        wait_until(self.is_counted_empty, COUNT_SECONDS, "the broker to have counted")
        threading.Timer(self.start, go.set).start()
        prune(self.app, waits=WAITS)
        for producer in producers:
            joined(producer)

    def is_counted_empty(self) -> bool:
        """Return whether the broker counts no message in any lane: a prune keeps those of which it knows less."""
        return all(count.total == 0 for count in scheduled.count_lanes(self.app).values())

    def produce(self, ways: list[int], ready: threading.Barrier, go: threading.Event) -> None:
        """Publish by each way once; later, for a while, by any of them."""
        for way in ways:
            self.app.send_task("warm", queue="lopri", countdown=way)
        ready.wait(READY_SECONDS)
        go.wait(READY_SECONDS)
        stop = time.monotonic() + PUBLISHING_SECONDS
        while time.monotonic() < stop:
            countdown = random.choice(ways)  # noqa: S311 - any will do
            try:
                self.published.append(self.app.send_task("shop.add", queue="lopri", countdown=countdown).id)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
                self.errors.append(error)

    def drain(self, queues: list[str]) -> list[Message]:
        """Take all messages of those queues that exist."""
        return [message for queue in queues if depth(self.app, queue) for message in take(self.app, queue)]

    def arrived(self) -> list[str]:
        """Pass on the messages of the lanes of minutes, and return the ids in the expected queue."""
        minutes = [self.names.lane(Lane(2, count)) for count in (1, 2)]
        ends = [self.names.lane(Lane(3, seconds)) for seconds in SECONDS] + [self.names.prefix + "lopri"]
        with self.app.connection_for_write() as connection:
            for message in self.drain(minutes):
                hand_on(connection, message, self.names.hop(3))
        return [message.headers["id"] for message in self.drain(ends)]


@pytest.mark.version
@pytest.mark.timeout(300)
def test_producers_who_publish_while_lanes_are_removed(
    make: Callable[..., BrokerApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever moment of a prune they begin in, and though they rely on lanes that go: each task finds its way."""
    stages = []
    for number in range(STAGES):
        common = '["1m", "2m"]' if number % 2 else "[]"
        app = make(f'prefix = "p{number}."\ncommon_lanes = {common}\n{PATIENT}')
        stages.append(Stage(app, start=2.5 + 2 * (number // 2)))
    with ThreadPoolExecutor(STAGES) as pool, caplog.at_level(logging.INFO):
        for running in [pool.submit(stage.run) for stage in stages]:
            running.result()

    assert [stage.errors for stage in stages] == [[]] * STAGES
    assert all(stage.published for stage in stages)
    assert "delay.40s" in caplog.text, "no prune removed what the producers needed"
    for stage in stages:
        arrived = set(stage.arrived())
        wait_until(lambda s=stage, a=arrived: a.update(s.arrived()) or a >= set(s.published), 30, "all to arrive")
        assert depth(stage.app, stage.names.unrouted) == 0


# Refusals and concurrency


def test_without_the_management_api_nothing_goes(app: BrokerApp, make_app: AppMaker) -> None:
    """It alone sees every lane, and what lanes hold: one line says so."""
    blind = make_app(f'management_url = "http://127.0.0.1:1"\n{NO_LANES}{TWO_QUEUES}')
    with pytest.raises(
        BrokerError, match=r"nothing is removed without the management API.*127\.0\.0\.1:1"
    ) as caught:
        prune(blind, waits=SHORT)
    assert "\n" not in str(caught.value)
    assert on_broker(app) == set(UNUSED)


@pytest.mark.version
def test_a_user_without_the_right_to_configure(
    app: BrokerApp, make: Callable[..., BrokerApp], make_user: MakeUser
) -> None:
    """It is refused at once, and nothing has changed."""
    watch = Stopwatch()
    with pytest.raises(BrokerRefused, match=r"queue 'tasks\.prune': the broker answered 403"):
        prune(make(url=make_user(read=".*", write=".*")))
    assert watch.seconds < PruneTimeouts().count
    assert on_broker(app) == set(UNUSED)


@pytest.mark.version
def test_two_prunes_at_once(app: BrokerApp) -> None:
    """The second run gets an error: another one is running; the first one does its work."""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(prune, app, waits=replace(SHORT, declare=2)) for _ in range(2)]
        errors = [prune.exception() for prune in running]
    refused = [error for error in errors if error is not None]
    assert len(refused) == 1
    assert isinstance(refused[0], BrokerLocked)
    assert "topology prune` is at work" in str(refused[0])
    assert on_broker(app) == set()


@pytest.mark.version
def test_a_prune_that_was_killed_is_no_obstacle(app: BrokerApp) -> None:
    """A lane that it left unbound is bound again by the first task that needs it, at once or after another."""
    with connect(app) as connection:
        for word in UNUSED:
            unbind_queue(connection, entry_binding(parse_lane(word), ""))
    app.send_task("shop.add", queue="lopri", countdown=33 * 60 + 40)
    assert depth(app, "delay.33m") == 1
    (message,) = take(app, "delay.33m")
    with app.connection_for_write() as connection:
        hand_on(connection, message, "delay.s")
    wait_until(lambda: depth(app, "delay.40s") == 1, 30, "the task in its second lane")
    assert words(prune(app, waits=SHORT).removed) == {"2d", "7h", "8h", "33m"}
