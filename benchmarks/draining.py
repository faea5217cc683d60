"""How many no-op tasks a fleet of two nodes takes off a full queue: ours, plain Celery, dramatiq."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import amqp
import dramatiq

from benchmarks.apps import make_careful, make_ours
from benchmarks.depth import wait_for_depth
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.pipeline import probes, publish_many
from benchmarks.probe import READY
from benchmarks.publishing import QuorumBroker
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, Route, declare_ours, declare_plain, direct_route
from benchmarks.worker import running_commands, worker_environment
from broker_app.outgoing import PERSISTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.bench import Bench
    from benchmarks.record import Record

OURS, PLAIN, DRAMATIQ = "broker-app", "Celery, late acks", "dramatiq, 2 processes of 8 threads"
NODES = 2
POOLS = {"threads": 8, "prefork": 2}
"""Slots of each node, by pool."""

GOALS = {PLAIN: 1.5, DRAMATIQ: 1.0}
LABEL = "drained"
_DRAIN_SECONDS = 300.0
_SETTLE_SECONDS = 0.5
"""After the last node is ready, before tasks count."""

_TAIL = 0.02
"""The share of the last tasks that does not count: one node may have none left."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One fleet.

    Attributes:
        commands: Its processes, as behind ``python -m``.
        ready: How often they say that they are ready.
        fill: Puts so many tasks into its queue, at a broker's URL.
    """

    commands: Sequence[Sequence[str]]
    ready: int
    fill: Callable[[str, int], None]


def run(bench: Bench) -> Report:
    """Fill a quorum queue, start two nodes on it, and take the pace; in turn for each."""
    count, rounds = bench.pick((30_000, 5), (8_000, 3))
    contenders = {f"{OURS}, {pool}": _celery("ours", pool, slots) for pool, slots in POOLS.items()}
    contenders |= {f"{PLAIN}, {pool}": _celery("careful", pool, slots) for pool, slots in POOLS.items()}
    contenders[DRAMATIQ] = Contender((_DRAMATIQ_COMMAND,), 2, _fill_dramatiq)
    measures = {name: partial(_pace, bench, one, count) for name, one in contenders.items()}
    rates = alternate(measures, rounds, bench.say)
    goals = [
        Goal(
            f"{pool}, against plain Celery",
            ratio(rates[f"{OURS}, {pool}"], rates[f"{PLAIN}, {pool}"]),
            GOALS[PLAIN],
        )
        for pool in POOLS
    ]
    goals.append(
        Goal("threads, against dramatiq", ratio(rates[f"{OURS}, threads"], rates[DRAMATIQ]), GOALS[DRAMATIQ])
    )
    return Report(
        title=f"no-op tasks off a full quorum queue, two nodes, {count:,} a round, {rounds} rounds",
        columns=("contender", "tasks a second"),
        rows=tuple((name, shown_spread(Spread.of(values))) for name, values in rates.items()),
        goals=tuple(goals),
        notes=(
            f"Two nodes each, {' and '.join(f'{pool} -c {slots}' for pool, slots in POOLS.items())}, late acks, "
            "no results; dramatiq as it comes. Each task writes one line. Counted from when all consume."
        ),
        samples=rates,
    )


def _celery(app: str, pool: str, slots: int) -> Contender:
    base = ("celery", "-A", f"benchmarks.apps:{app}", "worker", "-l", "WARNING", "-Q", QUEUE)
    commands = [(*base, "-P", pool, "-c", str(slots), "-n", f"{app}{number}@localhost") for number in range(NODES)]
    return Contender(commands, NODES, _fill_ours if app == "ours" else _fill_plain)


def _pace(bench: Bench, contender: Contender, count: int) -> float:
    """Return how many tasks a second began, from when all nodes consumed until almost all had begun."""
    with ExitStack() as stack:
        url, record = stack.enter_context(bench.virtual_host()), stack.enter_context(bench.record())
        contender.fill(url, count)
        environment = worker_environment(url, record.path) | {URL_VARIABLE: url, "PYTHONPATH": os.curdir}
        stack.enter_context(running_commands(contender.commands, environment, record, contender.ready))
        record.wait(LABEL, count, _DRAIN_SECONDS)
        return _steady(record, count)


def _steady(record: Record, count: int) -> float:
    begun = max(start.started for start in record.starts(READY)) + _SETTLE_SECONDS
    starts = sorted(start.started for start in record.starts(LABEL))
    assert len(starts) == count, "a task was doubled"
    counted = [moment for moment in starts[: int(count * (1 - _TAIL))] if moment >= begun]
    assert len(counted) > count / 4, (
        f"too few tasks: {count - len(counted)} of {count} had begun when all consumed"
    )
    return (len(counted) - 1) / (counted[-1] - counted[0])


def _fill_ours(url: str, count: int) -> None:
    declare_ours(url)
    publish_many(url, count, probes(make_ours(url), LABEL), direct_route)
    wait_for_depth(url, QUEUE, count)


def _fill_plain(url: str, count: int) -> None:
    declare_plain(url)
    publish_many(url, count, probes(make_careful(url), LABEL), direct_route)
    wait_for_depth(url, QUEUE, count)


URL_VARIABLE = "BENCHMARK_BROKER_URL"
_DRAMATIQ_COMMAND = ("dramatiq", "benchmarks.dramatiq_side", "--processes", "2", "--threads", "8")


def _fill_dramatiq(url: str, count: int) -> None:
    """Publish what ``started.send(LABEL)`` would: to the default exchange, encoded by dramatiq."""
    broker = QuorumBroker(url=url, confirm_delivery=True)
    broker.declare_queue(QUEUE, ensure=True)
    broker.close()

    def make() -> amqp.Message:
        message = dramatiq.Message(QUEUE, "started", (LABEL,), {}, {})
        return amqp.Message(message.encode(), delivery_mode=PERSISTENT, priority=None)

    publish_many(url, count, make, lambda: Route("", QUEUE))
    wait_for_depth(url, QUEUE, count)
