"""Exactness of the pool asyncio: many overlapping coroutines with known ids, each of which runs once as itself."""

from __future__ import annotations

import tempfile
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.interleaved_tasks import INTERLEAVED, RIGHT, WRONG
from benchmarks.metrics_worker import running
from benchmarks.probe import READY
from benchmarks.report import Goal, Report
from benchmarks.topologies import QUEUE
from benchmarks.waiting import wait_for
from benchmarks.worker import worker_environment
from broker_app import BrokerApp, publish_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.record import Record

SLOTS = 1_000
_READY_SECONDS = 120.0
_SECONDS_A_TASK = 0.01
"""Bound on the time for a task, which is some ten times longer than it takes."""


def run(bench: Bench) -> Report:
    """Publish tasks to a running worker; count those that did not run, ran twice, or saw another's request."""
    count = bench.pick(1_000_000, 20_000)
    with (
        bench.virtual_host() as url,
        bench.record() as record,
        tempfile.TemporaryDirectory(dir=bench.folder) as state,
    ):
        environment = worker_environment(url, record.path) | {"BROKER_APP_STATE_DIR": state}
        command = ["-m", "celery", "-A", "benchmarks.interleaved_tasks:app", "worker", "-l", "WARNING"]
        command += ["-P", "asyncio", "-c", f"{SLOTS}", "-Q", QUEUE, "-n", "interleaved@localhost"]
        log = record.path.with_name("worker.log")
        with running(command, environment, log):
            wait_for(lambda: bool(record.starts(READY)), _READY_SECONDS, lambda: f"a ready worker: {log}")
            _publish(url, count)
            wait_for(
                lambda: _ended(record) >= count,
                _SECONDS_A_TASK * count + _READY_SECONDS,
                lambda: f"{count} tasks, {_ended(record)} ran",
            )
        ran = _ran(record)
        faults = {
            "lost": count - len(ran.keys() & set(range(count))),
            "doubled": ran.total() - len(ran),
            "with another's request": len(record.starts(WRONG)),
        }
    return Report(
        title=f"{count:,} overlapping coroutines, asyncio -c {SLOTS:,}",
        columns=("fault", "tasks"),
        rows=tuple((what, f"{number:,}") for what, number in faults.items()),
        goals=tuple(Goal.none(what, number) for what, number in faults.items()),
        notes="Each looks at its request five times between its waits, twice from tasks of its own.",
        samples={what: [number] for what, number in faults.items()},
    )


def _publish(url: str, count: int) -> None:
    app = BrokerApp("interleaved", broker=url, set_as_current=False)

    def make() -> Iterator[object]:
        for number in range(count):
            yield app.signature(INTERLEAVED, args=(number,), queue=QUEUE, options={"task_id": str(number)})

    assert publish_many(make(), app=app).run().accepted == count
    app.close()


def _ended(record: Record) -> int:
    return len(record.starts(RIGHT)) + len(record.starts(WRONG))


def _ran(record: Record) -> Counter[int]:
    """Return how often each task has run, by its number."""
    return Counter(int(start.since) for label in (RIGHT, WRONG) for start in record.starts(label))
