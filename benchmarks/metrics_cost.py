"""The cost of counting for a worker: processor time for each task, with metrics, without, and with events."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.metrics_worker import SLOTS, MeasuredWorker, cpu_seconds, measured_worker
from benchmarks.probe import TASK
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE
from broker_app import publish_many

if TYPE_CHECKING:
    from benchmarks.bench import Bench

WITHOUT, WITH, EVENTS = "no metrics", "metrics", "no metrics, Celery's events (-E)"
GOAL_RATIO = 0.97
_WARM_UP_TASKS = 500
_WAIT_SECONDS = 300.0
_OFF = {"BROKER_APP_METRICS__ENABLED": "false"}


def run(bench: Bench) -> Report:
    """Let each worker drain the same no-op tasks in turn, and take the processor time of its process."""
    count, rounds = bench.pick((20_000, 7), (4_000, 3))
    with ExitStack() as stack:
        workers = {
            WITHOUT: stack.enter_context(measured_worker(bench, "ours", settings=_OFF)),
            WITH: stack.enter_context(measured_worker(bench, "ours")),
            EVENTS: stack.enter_context(measured_worker(bench, "ours", ("-E",), _OFF)),
        }
        for worker in workers.values():
            _microseconds(worker, "warm", _WARM_UP_TASKS)
        numbers = iter(range(10_000))
        measures = {
            name: partial(lambda one: _microseconds(one, f"round-{next(numbers)}", count), worker)
            for name, worker in workers.items()
        }
        costs = alternate(measures, rounds, bench.say)
    return Report(
        title=f"processor time of a worker for each of {count:,} no-op tasks, {rounds} rounds",
        columns=("worker", "µs a task"),
        rows=tuple((name, shown_spread(Spread.of(values))) for name, values in costs.items()),
        goals=(Goal("no metrics against metrics", ratio(costs[WITHOUT], costs[WITH]), GOAL_RATIO),),
        notes=(
            f"One worker each with {SLOTS} threads, user and system time of its process (proc(5)); the task "
            "writes one line, its result is not kept. The cost of a reader of the events is not included."
        ),
        samples={f"{name}: µs a task": values for name, values in costs.items()},
    )


def _microseconds(worker: MeasuredWorker, label: str, count: int) -> float:
    """Return the processor time of a worker for each task."""
    before = cpu_seconds(worker.pid)
    app = make_ours(worker.url)
    signatures = (app.signature(TASK, args=(label,), queue=QUEUE) for _ in range(count))
    accepted = publish_many(signatures, app=app).run().accepted
    assert accepted == count
    worker.record.wait(label, count, _WAIT_SECONDS)
    return (cpu_seconds(worker.pid) - before) / count * 1e6
