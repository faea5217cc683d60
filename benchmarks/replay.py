"""Sending dead letters again: many confirmations on their way at once, against one after the other."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import amqp
import pika

from benchmarks.apps import make_ours
from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.one_by_one import Pace
from benchmarks.pipeline import publish_many
from benchmarks.probe import TASK
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, Route, declare_ours
from broker_app.messages import CommandOptions, replay
from broker_app.queues import Names
from broker_app.queues.dead_letters import AT_HEADER, EXCEPTION_HEADER, REASON_HEADER, TRACEBACK_HEADER
from broker_app.queues.headers import DELAY_HEADER, PERSISTENT, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from broker_app import BrokerApp

OURS, ONE_BY_ONE = "`queues replay`", "pika, one by one"
DEAD = f"{QUEUE}.dead"
GOAL = 2.0


def run(bench: Bench) -> Report:
    """Replay dead letters in turn with broker-app and with a loop of get, publish, confirm, acknowledge."""
    count, rounds = bench.pick((10_000, 5), (1_000, 2))
    with ExitStack() as stack:
        urls = {name: stack.enter_context(bench.virtual_host()) for name in (OURS, ONE_BY_ONE)}
        for url in urls.values():
            declare_ours(url)
        app = make_ours(urls[OURS])
        stack.callback(app.close)
        ways: dict[str, Callable[[int], None]] = {
            OURS: partial(_replay, app),
            ONE_BY_ONE: partial(_one_by_one, urls[ONE_BY_ONE]),
        }
        contenders = {name: partial(_pace, way, urls[name], count) for name, way in ways.items()}
        paces = alternate(contenders, rounds, bench.say)
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    gain = ratio(rates[OURS], rates[ONE_BY_ONE])
    return Report(
        title=f"replaying {count:,} dead letters, {rounds} rounds",
        columns=("contender", "messages a second", "CPU for each, µs"),
        rows=tuple(
            (name, shown_spread(Spread.of(rates[name])), shown_spread(Spread.of(work[name]))) for name in rates
        ),
        goals=(Goal("broker-app against one by one", gain, GOAL),),
        notes=(
            "From a quorum queue into a quorum queue, each message persistent, `mandatory`, confirmed in the new "
            "queue before it is acknowledged in the old one; connecting included. broker-app also reads each "
            "message's headers for the filters and looks for its result in SQLite. CPU: of the operator's process."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _pace(way: Callable[[int], None], url: str, count: int) -> Pace:
    """Bury ``count`` tasks, send them again, see that all are there, and return how quick it was."""
    publish_many(url, count, _dead_letter, lambda: Route("", DEAD))
    wait_for_depth(url, DEAD, count)
    started, worked = time.perf_counter(), time.process_time()
    way(count)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    wait_for_depth(url, QUEUE, count)
    wait_for_depth(url, DEAD, 0)
    purge(url, QUEUE)
    return Pace(count / seconds, worked / count * 1e6)


def _replay(app: BrokerApp, count: int) -> None:
    outcome = replay(app, DEAD, CommandOptions())
    assert outcome.done == count, outcome


def _one_by_one(url: str, count: int) -> None:
    """Replay with pika as its documentation shows it: each call waits for its answer."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for _ in range(count):
        method, properties, body = channel.basic_get(DEAD)
        properties.headers = {name: value for name, value in properties.headers.items() if "dead" not in name}
        channel.basic_publish(Names().tasks, QUEUE, body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)
    connection.close()


def _dead_letter() -> amqp.Message:
    """Return a task of usual size as a worker would have buried it."""
    identity = str(uuid4())
    headers = {
        "lang": "py",
        "task": TASK,
        "id": identity,
        "root_id": identity,
        "parent_id": None,
        "group": None,
        "retries": 3,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "argsrepr": "(2, 2)",
        "kwargsrepr": "{}",
        "origin": "gen1@host",
        PUBLISHED_AT_HEADER: time.time(),
        DELAY_HEADER: 0.0,
        REASON_HEADER: "failed",
        AT_HEADER: time.time(),
        EXCEPTION_HEADER: "ValueError: no such order",
        TRACEBACK_HEADER: "Traceback (most recent call last):\n" + "  File …, line 1, in run\n" * 20,
    }
    return amqp.Message(
        b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
        content_type="application/json",
        content_encoding="utf-8",
        correlation_id=identity,
        delivery_mode=PERSISTENT,
        application_headers=headers,
    )
