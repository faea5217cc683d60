"""Scheduled tasks by due time, as counted by the broker: all of ours, and no other messages."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from apps import TWO_QUEUES, depth, put
from waiting import wait_until

from broker_app.broker import scheduled
from broker_app.broker.scheduled import read_backlog
from broker_app.errors import BrokerError
from broker_app.queues.delay import due_pattern, parse_lane

if TYPE_CHECKING:
    from apps import AppMaker, MakeUser
    from brokers import Management

    from broker_app import BrokerApp

DELAYS = [30, 30, 90, 600, 3_600, 82_800, 200_000]
BY_DUE_TIME = {"1 minute": 2, "10 minutes": 1, "1 hour": 1, "1 day": 2, "later": 1}
NOWHERE = 'management_url = "http://127.0.0.1:1"\n'
COUNT_SECONDS = 30
"""Longest time until the broker has counted (every 5 s) on a busy machine."""


@pytest.fixture
def url(management: Management) -> str:
    """Return the settings' line for the management API of the broker."""
    return f"management_url = {json.dumps(management.url)}\n"


def names_of(found: scheduled.Backlog) -> dict[str, int]:
    """Return the depths by the lanes' words."""
    return {lane.word: count for lane, count in found.depths.items()}


def declare(app: BrokerApp, name: str, messages: int = 0, arguments: dict[str, object] | None = None) -> None:
    """Declare a foreign queue with some messages in it."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        for _ in range(messages):
            put(channel, channel.prepare_message(b"theirs"), "", name)


@pytest.mark.version
def test_each_task_is_counted_where_it_is_due_at_the_latest(make_app: AppMaker, url: str) -> None:
    """With the management API all lanes are found, however long, and the counts are exact at once."""
    app = make_app(url + TWO_QUEUES)
    for delay in DELAYS:
        app.send_task("shop.add", queue="lopri", countdown=delay)

    found = read_backlog(app)

    assert found.buckets() == BY_DUE_TIME
    assert (found.total, found.is_complete) == (len(DELAYS), True)
    used = Counter({word: count for word, count in names_of(found).items() if count})
    used["30s"] += sum(used.pop(f"{seconds}s", 0) for seconds in range(10, 30))  # less what a call took
    assert used == {"30s": 2, "1m": 1, "10m": 1, "1h": 1, "23h": 1, "2d": 1}


@pytest.mark.version
def test_without_the_management_api(make_app: AppMaker, url: str) -> None:
    """All lanes of the first 60 days are found one by one; longer ones are not, and that is said."""
    app, blind = make_app(url + TWO_QUEUES), make_app(NOWHERE + TWO_QUEUES)
    for delay in DELAYS:
        app.send_task("shop.add", queue="lopri", countdown=delay)

    found = read_backlog(blind)
    assert (found.buckets(), found.is_complete, found.held_up) == (BY_DUE_TIME, False, None)

    app.send_task("shop.add", queue="lopri", countdown=100 * 86_400)
    assert read_backlog(blind).total == len(DELAYS)
    assert read_backlog(app).total == len(DELAYS) + 1


def test_a_user_whom_the_management_api_refuses(make_app: AppMaker, make_user: MakeUser, url: str) -> None:
    """A user without a tag gets what AMQP tells, and the counts are marked as not complete."""
    make_app(url + TWO_QUEUES).send_task("shop.add", queue="lopri", countdown=90)
    found = read_backlog(make_app(url + TWO_QUEUES, url=make_user(read=".*")))
    assert (found.total, found.is_complete) == (1, False)


def test_nothing_was_ever_declared(make_app: AppMaker, url: str) -> None:
    """An empty virtual host has no backlog, and looking makes nothing."""
    app = make_app(url + TWO_QUEUES)
    assert read_backlog(app).total == read_backlog(make_app(NOWHERE + TWO_QUEUES)).total == 0
    assert depth(app, "tasks") is None


def test_a_broker_that_is_away(make_app: AppMaker) -> None:
    """It is an error, and not an empty backlog."""
    with pytest.raises(BrokerError, match="no AMQP broker answers"):
        read_backlog(make_app(url="amqp://u:p@127.0.0.1:1//"))


@pytest.mark.parametrize("api", ["management API", "AMQP"])
@pytest.mark.parametrize(("ours", "theirs"), [("", "shop."), ("shop.", ""), ("a.", "a.delay."), ("delay.", "")])
def test_another_app_on_the_same_virtual_host_is_not_counted(
    make_app: AppMaker, url: str, api: str, ours: str, theirs: str
) -> None:
    """The prefix decides, whatever the two have in common."""
    head = url if api == "management API" else NOWHERE
    mine = make_app(f'prefix = "{ours}"\n{head}{TWO_QUEUES}')
    other = make_app(f'prefix = "{theirs}"\n{url}{TWO_QUEUES}')
    mine.send_task("shop.add", queue="lopri", countdown=90)
    for delay in (50, 50, 4_000):
        other.send_task("shop.add", queue="lopri", countdown=delay)

    found = read_backlog(mine)

    assert {word: count for word, count in names_of(found).items() if count} == {"1m": 1}


def test_queues_that_only_look_like_lanes(make_app: AppMaker, url: str) -> None:
    """A name that is not a lane's is a foreign queue, and not an error."""
    app = make_app(url + TWO_QUEUES)
    for name in (
        "delay.07s",
        "delay.10",
        "delay.90s",
        "delay.0s",
        "delay.10s.more",
        "xdelay.10s",
        "delay.",
        "delay.s",
    ):
        declare(app, name, messages=1)
    app.send_task("shop.add", queue="lopri", countdown=3_000)

    found = read_backlog(app)

    assert (names_of(found), found.is_complete) == ({"50m": 1}, True)


@pytest.mark.version
def test_what_is_due_and_held_up_is_told_apart(make_app: AppMaker, url: str) -> None:
    """A lane whose tasks' queue is full holds them where no depth shows them: the broker's count does."""
    app = make_app(url + TWO_QUEUES)
    full = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": 1}
    declare(app, "lopri", arguments=full)
    with app.connection_for_write() as connection:
        connection.default_channel.exchange_declare(
            "tasks.due",
            "topic",
            durable=True,
            auto_delete=False,
            arguments={"alternate-exchange": "tasks.unrouted"},
        )
        connection.default_channel.queue_bind("lopri", "tasks.due", due_pattern("lopri"))
    for _ in range(20):
        app.send_task("shop.add", queue="lopri", countdown=1)

    def held() -> int:
        found = read_backlog(app)
        return 0 if found.total else (found.held_up or 0)

    wait_until(lambda: held() >= 10, COUNT_SECONDS, "the lane to hold what the queue does not take")
    wait_until(lambda: held() + (depth(app, "lopri") or 0) == 20, COUNT_SECONDS, "the counts to be of one moment")
    assert scheduled.count_lanes(app)[parse_lane("1s")].held >= 10
