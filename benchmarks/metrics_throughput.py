"""No-op tasks a second of a worker: with metrics, without, and as plain Celery with an exporter."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_careful, make_ours
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.metrics_worker import SLOTS, MeasuredWorker, free_port, measured_worker, running, scraped
from benchmarks.pipeline import probes, publish_many
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import direct_route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

WITHOUT, WITH = "broker-app, no metrics", "broker-app, metrics"
PLAIN, EVENTS = "Celery, nothing is counted", "Celery -E and an exporter of events"
GOALS = {WITHOUT: 0.97, EVENTS: 1.0}
SCRAPE_SECONDS = 1.0
_OFF = {"BROKER_APP_METRICS__ENABLED": "false"}
_WARM_UP_TASKS = 500
_WAIT_SECONDS = 300.0


def run(bench: Bench) -> Report:
    """Fill the queue while a worker is stopped, and let it drain it; in turn for each."""
    count, rounds = bench.pick((6_000, 15), (3_000, 7))
    with ExitStack() as stack:
        workers = {
            WITHOUT: stack.enter_context(measured_worker(bench, "ours", settings=_OFF)),
            WITH: stack.enter_context(_with_server(bench)),
            PLAIN: stack.enter_context(measured_worker(bench, "careful")),
            EVENTS: stack.enter_context(_with_exporter(bench)),
        }
        for name, worker in workers.items():
            _pace(worker, name in {WITHOUT, WITH}, "warm", _WARM_UP_TASKS)
        numbers = iter(range(10_000))
        measures = {
            name: partial(
                lambda worker, is_ours: _pace(worker, is_ours, f"round-{next(numbers)}", count),
                worker,
                name in {WITHOUT, WITH},
            )
            for name, worker in workers.items()
        }
        rates = alternate(measures, rounds, bench.say)
    return Report(
        title=f"no-op tasks that one worker takes off a full queue, {count:,} a round, {rounds} rounds",
        columns=("worker", "tasks a second"),
        rows=tuple((name, shown_spread(Spread.of(values))) for name, values in rates.items()),
        goals=tuple(
            Goal(f"metrics, against {name}", ratio(rates[WITH], rates[name]), limit)
            for name, limit in GOALS.items()
        ),
        notes=(
            f"One worker each with {SLOTS} threads, late acks and a prefetch of one; each task writes one line. "
            f"The metrics server and the exporter run at the same time, scraped every {SCRAPE_SECONDS:g} s."
        ),
        samples=rates,
    )


def _pace(worker: MeasuredWorker, is_ours: bool, label: str, count: int) -> float:  # noqa: FBT001 - see partial
    """Return the tasks that began each second, from when the worker was let go until the last."""
    worker.stop()
    make = probes((make_ours if is_ours else make_careful)(worker.url), label)
    publish_many(worker.url, count, make, direct_route)
    begun = time.time()
    worker.go_on()
    starts = worker.record.wait(label, count, _WAIT_SECONDS)
    return count / (max(start.started for start in starts) - begun)


@contextmanager
def _with_server(bench: Bench) -> Iterator[MeasuredWorker]:
    port = free_port()
    command = ["-m", "celery", "-A", "benchmarks.apps:ours", "metrics", "serve", "--port", str(port)]
    management = {"BROKER_APP_MANAGEMENT_URL": bench.broker.management.url}
    with (
        measured_worker(bench, "ours") as worker,
        running(command, {**worker.environment, **management}, bench.folder / "server.log"),
        scraped(port, SCRAPE_SECONDS),
    ):
        yield worker


@contextmanager
def _with_exporter(bench: Bench) -> Iterator[MeasuredWorker]:
    port = free_port()
    command = ["-m", "benchmarks.metrics_exporter", str(port)]
    with (
        measured_worker(bench, "careful", ("-E",)) as worker,
        running(command, worker.environment, bench.folder / "exporter.log"),
        scraped(port, SCRAPE_SECONDS),
    ):
        yield worker
