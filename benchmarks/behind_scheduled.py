"""Waits of immediate tasks behind scheduled ones of the same queue."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours, make_plain
from benchmarks.backlog import Scheduler, lanes_scheduler, worker_scheduler
from benchmarks.figures import Spread, shown_spread
from benchmarks.probe import send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from benchmarks.record import Record

OURS, CLASSIC = "broker-app", "Celery, classic queue"
GOAL_MS = 50.0
GIVE_UP_SECONDS = 60.0
PROBES = 20
_SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds that immediate tasks waited, one behind the other.

    Attributes:
        empty: On an empty queue.
        behind: Behind the scheduled tasks; fewer than `PROBES` if one did not start in time.
    """

    empty: list[float]
    behind: list[float]

    @property
    def extra(self) -> list[float]:
        """Additional wait compared with the median on the empty queue."""
        usual = Spread.of(self.empty).median
        return [wait - usual for wait in self.behind]

    def __str__(self) -> str:
        return " | ".join(_cells(self))


def run(bench: Bench) -> Report:
    """Send immediate tasks to a worker before and after many scheduled ones, with both contenders."""
    count = bench.pick(50_000, 5_000)
    with ExitStack() as stack:
        ours, classic = (stack.enter_context(bench.virtual_host()) for _ in range(2))
        schedulers = {
            OURS: lanes_scheduler(make_ours(ours), ours),
            CLASSIC: worker_scheduler(make_plain(classic, "classic"), classic),
        }
        slots = make_ours().settings.queues[QUEUE].fleet.concurrency
        measures = {name: partial(_waits, bench, one, slots, count) for name, one in schedulers.items()}
        waits = {name: values[0] for name, values in alternate(measures, 1, bench.say).items()}
    return Report(
        title=f"an immediate task behind {count:,} countdown tasks of the same queue",
        columns=("contender", "empty queue, ms", "behind them, ms", "longer by, ms"),
        rows=tuple((name, *_cells(one)) for name, one in waits.items()),
        goals=(
            Goal("longer with broker-app", Spread.of(waits[OURS].extra), GOAL_MS, is_ceiling=True, unit=" ms"),
        ),
        notes=(
            f"{PROBES} immediate tasks one after the other, to one worker with {slots} threads, which had "
            f"{_SETTLE_SECONDS:.0f} s to take what it takes; an immediate task is given up after "
            f"{GIVE_UP_SECONDS:.0f} s."
        ),
        samples={f"{name}: empty ms": one.empty for name, one in waits.items()}
        | {f"{name}: behind ms": one.behind for name, one in waits.items()},
    )


def _waits(bench: Bench, scheduler: Scheduler, slots: int, count: int) -> Waits:
    with (
        bench.record() as record,
        running_worker(scheduler.app_name, scheduler.url, record, QUEUE, slots),
    ):
        _probe(scheduler, record, "warm")
        empty = _probe(scheduler, record, "empty")
        assert len(empty) == PROBES, "an immediate task on an empty queue did not start"
        scheduler.schedule(count)
        time.sleep(_SETTLE_SECONDS)
        behind = _probe(scheduler, record, "behind")
        assert not record.starts("scheduled"), "a scheduled task started an hour early"
    return Waits(empty, behind)


def _probe(scheduler: Scheduler, record: Record, label: str) -> list[float]:
    """Send immediate tasks one after the other and return what each waited, until one does not start in time."""
    for number in range(1, PROBES + 1):
        send(scheduler.app, label, queue=QUEUE)
        try:
            record.wait(label, number, GIVE_UP_SECONDS)
        except TimeoutError:
            break
    return [start.waited_seconds * 1000 for start in record.starts(label)]


def _cells(waits: Waits) -> tuple[str, str, str]:
    empty = shown_spread(Spread.of(waits.empty))
    if len(waits.behind) == PROBES:
        return empty, shown_spread(Spread.of(waits.behind)), shown_spread(Spread.of(waits.extra))
    return empty, f"{len(waits.behind)} of {PROBES} started", f"over {GIVE_UP_SECONDS * 1000:,.0f}"
