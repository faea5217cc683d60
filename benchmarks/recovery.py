"""Time until tasks run again after a fault: broker-app, and plain Celery that is tuned as it is."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from benchmarks.apps import make_careful, make_ours
from benchmarks.figures import Spread, shown, shown_spread
from benchmarks.mortal import mortal_broker
from benchmarks.pipeline import probes, publish_many
from benchmarks.report import Report
from benchmarks.topologies import QUEUE, declare_ours, declare_plain, direct_route
from benchmarks.waiting import wait_for
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from celery import Celery

    from benchmarks.bench import Bench
    from benchmarks.mortal import MortalBroker
    from benchmarks.record import Record

LABEL = "task"
SLOTS = 8
TASK_SECONDS = 0.05
ENOUGH = 100
"""Tasks that must have started after the fault until it counts as over."""

GIVE_UP_SECONDS = 120.0
_BUSY_SECONDS = 60.0
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Contender:
    """An app with a worker.

    Attributes:
        name: For people.
        app_name: Of `benchmarks.apps`.
        make: Returns the app.
        declare: Declares what its worker consumes.
    """

    name: str
    app_name: str
    make: Callable[[str], Celery]
    declare: Callable[[str], None]


CONTENDERS = (
    Contender("broker-app", "ours", make_ours, declare_ours),
    Contender("Celery, late acks, prefetch 1", "careful", make_careful, declare_plain),
)


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of the broker.

    Attributes:
        name: For people.
        seconds: How long it lasts, the broker's own start not counted.
        begin: Begins it.
        end: Ends it; returns when the broker lets clients in.
    """

    name: str
    seconds: float
    begin: Callable[[MortalBroker, str], None]
    end: Callable[[MortalBroker], None]


def _faults(outage_seconds: float, silence_seconds: float) -> tuple[Fault, ...]:
    return (
        Fault("killed, started again", 0.0, lambda broker, _: broker.kill(), lambda broker: broker.start()),
        Fault(
            "stopped in order, started again", 0.0, lambda broker, _: broker.stop(), lambda broker: broker.start()
        ),
        Fault(
            f"killed, away for {outage_seconds:g} s",
            outage_seconds,
            lambda broker, _: broker.kill(),
            lambda broker: broker.start(),
        ),
        Fault(
            f"silent for {silence_seconds:g} s, connections stay",
            silence_seconds,
            lambda broker, _: broker.hold(),
            lambda broker: broker.let_go(),
        ),
        Fault("connections closed by an operator", 0.0, _close_connections, lambda _: None),
    )


def run(bench: Bench) -> Report:
    """Let a worker work off a backlog, do each fault to its broker, and see when tasks are done again."""
    outage_seconds, silence_seconds, rounds = bench.pick((60.0, 40.0, 3), (5.0, 5.0, 1))
    rows, samples = [], dict[str, list[float]]()
    with mortal_broker(bench) as broker:
        for fault in _faults(outage_seconds, silence_seconds):
            values: dict[str, list[float]] = {one.name: [] for one in CONTENDERS}
            for _ in range(rounds):
                for contender in CONTENDERS:
                    values[contender.name].append(_recover(bench, broker, contender, fault))
                    bench.say(f"{fault.name}: {contender.name}: {values[contender.name][-1]:.2f} s")
            rows.append((fault.name, *(_shown(values[one.name]) for one in CONTENDERS)))
            samples |= {f"{fault.name}: {name}: seconds": found for name, found in values.items()}
    return Report(
        title=f"seconds from when the broker lets clients in again until a task is done, {rounds} rounds",
        columns=("fault of the broker", *(one.name for one in CONTENDERS)),
        rows=tuple(rows),
        notes=(
            f"One worker each, {SLOTS} threads, and a backlog of tasks of {TASK_SECONDS:g} s in a quorum queue. "
            "The fault is over for a contender when a task that started after it has ended. Of closed "
            f"connections: the longest pause between two starts. Given up after {GIVE_UP_SECONDS:g} s."
        ),
        samples=samples,
    )


def _shown(values: Sequence[float]) -> str:
    finite = [value for value in values if value < GIVE_UP_SECONDS]
    missing = len(values) - len(finite)
    told = [shown_spread(Spread.of(finite))] if finite else []
    return ", ".join([*told, *([f"{missing} of {len(values)} over {shown(GIVE_UP_SECONDS)}"] if missing else [])])


def _recover(bench: Bench, broker: MortalBroker, contender: Contender, fault: Fault) -> float:
    """Return how long the contender took; `GIVE_UP_SECONDS` if it did not come back."""
    with bench.record() as record, _working(broker, contender, record, fault) as url:
        began = time.time()
        fault.begin(broker, url)
        time.sleep(fault.seconds)
        fault.end(broker)
        over = time.time()
        try:
            _wait_for_starts(record, over + _SETTLE_SECONDS, ENOUGH, GIVE_UP_SECONDS)
        except TimeoutError:
            return GIVE_UP_SECONDS
        starts = sorted(one.started for one in record.starts(LABEL))
    if over - began < _SETTLE_SECONDS:  # it was over at once: a reserved task may have started after it
        return max(later - earlier for earlier, later in pairwise(starts) if later > began)
    return min(one for one in starts if one > over) - over + TASK_SECONDS


@contextmanager
def _working(broker: MortalBroker, contender: Contender, record: Record, fault: Fault) -> Iterator[str]:
    """Run a worker on a backlog that outlasts the fault, and return when it works."""
    with broker.management().virtual_host() as url:
        contender.declare(url)
        app = contender.make(url)
        seconds = _BUSY_SECONDS + fault.seconds
        try:
            publish_many(
                url,
                int(seconds * SLOTS / TASK_SECONDS),
                probes(app, LABEL, sleep_seconds=TASK_SECONDS),
                lambda: direct_route(QUEUE),
            )
        finally:
            app.close()
        with running_worker(contender.app_name, url, record, QUEUE, SLOTS):
            _wait_for_starts(record, 0.0, ENOUGH, _BUSY_SECONDS)
            yield url


def _wait_for_starts(record: Record, since: float, count: int, deadline_seconds: float) -> None:
    def seen() -> int:
        return sum(one.started > since for one in record.starts(LABEL))

    wait_for(lambda: seen() >= count, deadline_seconds, lambda: f"{count} starts, {seen()} came")


def _close_connections(broker: MortalBroker, _url: str) -> None:
    """Close all connections of the user that all use here; the list of connections would be seconds behind."""
    management = broker.management()
    user = unquote(urlsplit(management.amqp_url).username or "")
    management.call("DELETE", f"connections/username/{quote(user, safe='')}")
