"""Fleets that drain a full queue, each as its own documents start it, and the pace at which they do."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import amqp
import dramatiq

from benchmarks.apps import make_ours, make_plain
from benchmarks.depth import wait_for_depth
from benchmarks.pipeline import probes, publish_many
from benchmarks.probe import COROUTINES_VARIABLE, READY
from benchmarks.publishing import QuorumBroker
from benchmarks.topologies import QUEUE, Route, declare_ours, declare_plain, direct_route
from benchmarks.worker import running_commands, session_cpu_seconds, worker_environment
from broker_app.queues.headers import PERSISTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.record import Record

LABEL = "drained"
URL_VARIABLE = "BENCHMARK_BROKER_URL"
QOS_VARIABLE = "BENCHMARK_QOS"

_DRAIN_SECONDS = 300.0
_SETTLE_SECONDS = 0.5
"""After the last node is ready, before tasks count."""

_TAIL = 0.05
"""The share of the last tasks that does not count: one node may have none left."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """One contender.

    Attributes:
        commands: Its processes, as arguments of ``python -m``.
        ready: Number of their ready messages.
        fill: Publishes a number of tasks of a duration to its queue, at a broker's URL.
        variables: Environment variables of its processes.
    """

    commands: Sequence[Sequence[str]]
    ready: int
    fill: Callable[[str, int, float], None]
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drain:
    """The result of draining a queue.

    Attributes:
        per_second: Tasks begun, from when all nodes consumed until almost all had begun.
        cpu_microseconds: Of all its processes, for each task.
    """

    per_second: float
    cpu_microseconds: float

    def __str__(self) -> str:
        return f"{self.per_second:.0f} a second, {self.cpu_microseconds:.0f} µs each"


def ours(nodes: int, *options: str) -> Fleet:
    """Return broker-app's nodes, with Celery's options for each."""
    return _celery("ours", nodes, options, _fill_ours)


def coroutines(*options: str) -> Fleet:
    """Return one node of broker-app whose task is an ``async def``."""
    return replace(ours(1, "-P", "asyncio", *options), variables={COROUTINES_VARIABLE: "1"})


def storing(result_url: str | None, nodes: int, *options: str) -> Fleet:
    """Return broker-app's nodes, which store results; None is the default store, SQLite."""
    fill = partial(_fill_ours, keeps_result=True)
    variables = {} if result_url is None else {"BROKER_APP_RESULT_URL": result_url}
    return replace(_celery("ours", nodes, options, fill), variables=variables)


def celery(app: str, nodes: int, *options: str) -> Fleet:
    """Return plain Celery's nodes, of an app of `benchmarks.apps`."""
    return _celery(app, nodes, options, _fill_plain)


def dramatiq_fleet(*options: str) -> Fleet:
    """Return dramatiq's two processes; with no options each has 8 threads."""
    command = ("dramatiq", "benchmarks.dramatiq_side", "--processes", "2", *options)
    return Fleet((command,), 2, _fill_dramatiq)


def taskiq_fleet(qos: int | None = None) -> Fleet:
    """Return taskiq's two processes, each with this many messages at once; None for its default."""
    command = ("taskiq", "worker", "benchmarks.taskiq_side:broker", "--workers", "2", "--log-level", "WARNING")
    return Fleet((command,), 2, _fill_taskiq, {} if qos is None else {QOS_VARIABLE: str(qos)})


def drain(bench: Bench, fleet: Fleet, count: int, task_seconds: float = 0.0) -> Drain:
    """Fill a queue, start a fleet on it, and return how it drained it.

    Args:
        bench: The surroundings.
        fleet: The contender.
        count: Tasks.
        task_seconds: How long each waits.
    """
    with ExitStack() as stack:
        url, record = stack.enter_context(bench.virtual_host()), stack.enter_context(bench.record())
        fleet.fill(url, count, task_seconds)
        environment = worker_environment(url, record.path) | {URL_VARIABLE: url, "PYTHONPATH": os.curdir}
        running = running_commands(fleet.commands, environment | dict(fleet.variables), record, fleet.ready)
        sessions = stack.enter_context(running)
        cpu, begun = session_cpu_seconds(sessions), len(record.starts(LABEL))
        record.wait(LABEL, count, _DRAIN_SECONDS)
        spent = (session_cpu_seconds(sessions) - cpu) / max(1, count - begun)
        return Drain(_steady(record, count), spent * 1e6)


def _steady(record: Record, count: int) -> float:
    begun = max(start.started for start in record.starts(READY)) + _SETTLE_SECONDS
    starts = sorted(start.started for start in record.starts(LABEL))
    assert len(starts) == count, "a task was doubled"
    counted = [moment for moment in starts[: int(count * (1 - _TAIL))] if moment >= begun]
    early = count - len(counted)
    assert len(counted) > count / 5, f"too few tasks: {early} of {count} had begun when all consumed"
    return (len(counted) - 1) / (counted[-1] - counted[0])


def _celery(app: str, nodes: int, options: Sequence[str], fill: Callable[[str, int, float], None]) -> Fleet:
    base = ("celery", "-A", f"benchmarks.apps:{app}", "worker", "-l", "WARNING", "-Q", QUEUE, *options)
    return Fleet([(*base, "-n", f"{app}{number}@localhost") for number in range(nodes)], nodes, fill)


def _fill_ours(url: str, count: int, seconds: float, *, keeps_result: bool = False) -> None:
    declare_ours(url)
    made = probes(make_ours(url), LABEL, sleep_seconds=seconds, keeps_result=keeps_result)
    publish_many(url, count, made, direct_route)
    wait_for_depth(url, QUEUE, count)


def _fill_plain(url: str, count: int, seconds: float) -> None:
    declare_plain(url)
    publish_many(url, count, probes(make_plain(url), LABEL, sleep_seconds=seconds), direct_route)
    wait_for_depth(url, QUEUE, count)


def _fill_dramatiq(url: str, count: int, seconds: float) -> None:
    """Publish what ``started.send(LABEL, seconds)`` would: to the default exchange, encoded by dramatiq."""
    broker = QuorumBroker(url=url, confirm_delivery=True)
    broker.declare_queue(QUEUE, ensure=True)
    broker.close()

    def make() -> amqp.Message:
        message: dramatiq.Message[Any] = dramatiq.Message(QUEUE, "started", (LABEL, seconds), {}, {})
        return amqp.Message(message.encode(), delivery_mode=PERSISTENT)

    publish_many(url, count, make, lambda: Route("", QUEUE))
    wait_for_depth(url, QUEUE, count)


def _fill_taskiq(url: str, count: int, seconds: float) -> None:
    """Publish as taskiq does, many at once."""
    from benchmarks.taskiq_side import make_broker, started  # noqa: PLC0415 - only where taskiq is installed

    async def fill() -> None:
        broker = make_broker(url)
        await broker.startup()
        task = broker.task(task_name="started", queue_name=QUEUE)(started)
        for first in range(0, count, 500):
            calls = map(partial(task.kiq, LABEL), [seconds] * min(500, count - first))
            await asyncio.gather(*calls)
        await broker.shutdown()

    asyncio.run(fill())
    wait_for_depth(url, QUEUE, count)
