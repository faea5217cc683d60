"""The cost of scheduled tasks in a worker's memory."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours, make_plain
from benchmarks.backlog import Scheduler, lanes_scheduler, worker_scheduler
from benchmarks.figures import Spread, shown
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from benchmarks.bench import Bench

OURS, CLASSIC = "broker-app", "Celery, classic queue"
GOAL_MB = 5.0
WARM_UP_TASKS = 200
_WARM_UP_SECONDS = 60.0
_MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one worker, in MB."""

    before: float
    after: float

    @property
    def growth(self) -> float:
        """Growth with the scheduled tasks, to a hundredth."""
        return round(self.after - self.before, 2)


def run(bench: Bench) -> Report:
    """Compare the resident memory of a worker before and after many tasks were scheduled."""
    count, settle_seconds = bench.pick((50_000, 30.0), (5_000, 5.0))
    with ExitStack() as stack:
        ours, classic = (stack.enter_context(bench.virtual_host()) for _ in range(2))
        schedulers = {
            OURS: lanes_scheduler(make_ours(ours), ours),
            CLASSIC: worker_scheduler(make_plain(classic, "classic"), classic),
        }
        slots = make_ours().settings.queues[QUEUE].fleet.concurrency
        measures = {
            name: partial(_memory, bench, one, slots, count, settle_seconds) for name, one in schedulers.items()
        }
        memory = {name: values[0] for name, values in alternate(measures, 1, bench.say).items()}
    growth = Spread.of([memory[OURS].growth])
    return Report(
        title=f"resident memory of a worker with {count:,} scheduled tasks",
        columns=("contender", "with none, MB", f"with {count:,}, MB", "more, MB"),
        rows=tuple((name, shown(one.before), shown(one.after), shown(one.growth)) for name, one in memory.items()),
        goals=(Goal("more with broker-app", growth, GOAL_MB, is_ceiling=True, unit=" MB"),),
        notes=(
            f"One worker with {slots} threads after {WARM_UP_TASKS} tasks; read {settle_seconds:.0f} s after the "
            "last was published. On RabbitMQ 4 a worker's prefetch is fixed, so plain Celery holds only the first."
        ),
        samples={f"{name}: MB": (one.before, one.after) for name, one in memory.items()},
    )


def _memory(bench: Bench, scheduler: Scheduler, slots: int, count: int, settle_seconds: float) -> Memory:
    with (
        bench.record() as record,
        running_worker(scheduler.app_name, scheduler.url, record, QUEUE, slots) as worker,
    ):
        for _ in range(WARM_UP_TASKS):
            send(scheduler.app, "warm", queue=QUEUE)
        record.wait("warm", WARM_UP_TASKS, _WARM_UP_SECONDS)
        before = worker.resident_bytes()
        scheduler.schedule(count)
        time.sleep(settle_seconds)
        after = worker.resident_bytes()
        assert not record.starts("scheduled"), "a scheduled task started an hour early"
    return Memory(before / _MEGABYTE, after / _MEGABYTE)
