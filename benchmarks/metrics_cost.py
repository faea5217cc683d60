"""What counting costs a worker: processor time for each task, with metrics, without, and with Celery's events."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.apps import make_ours
from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.probe import READY, TASK
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE
from benchmarks.waiting import wait_for
from benchmarks.worker import ROOT, worker_environment
from broker_app import publish_many

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.bench import Bench
    from benchmarks.record import Record
    from broker_app import BrokerApp

WITHOUT, WITH, EVENTS = "no metrics", "metrics", "no metrics, Celery's events (-E)"
GOAL_RATIO = 0.97
SLOTS = 8
_WARM_UP_TASKS = 500
_WAIT_SECONDS = 300.0
_STOP_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Contender:
    """A worker that waits for its turn.

    Attributes:
        app: What publishes to it.
        pid: Of its one process.
        record: Where its tasks write.
    """

    app: BrokerApp
    pid: int
    record: Record


def run(bench: Bench) -> Report:
    """Let each worker drain the same no-op tasks in turn, and take the processor time of its process."""
    count, rounds = bench.pick((20_000, 7), (4_000, 3))
    with ExitStack() as stack:
        workers = {
            WITHOUT: stack.enter_context(_worker(bench, "", {"BROKER_APP_METRICS__ENABLED": "false"})),
            WITH: stack.enter_context(_worker(bench, "", {})),
            EVENTS: stack.enter_context(_worker(bench, "-E", {"BROKER_APP_METRICS__ENABLED": "false"})),
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
            "writes one line, its result is not kept. What somebody who reads the events pays is not in it."
        ),
        samples={f"{name}: µs a task": values for name, values in costs.items()},
    )


def _microseconds(worker: Contender, label: str, count: int) -> float:
    """Return the processor time of a worker for each task."""
    before = _cpu_seconds(worker.pid)
    signatures = (worker.app.signature(TASK, args=(label,), queue=QUEUE) for _ in range(count))
    accepted = publish_many(signatures, app=worker.app).run().accepted
    assert accepted == count
    worker.record.wait(label, count, _WAIT_SECONDS)
    return (_cpu_seconds(worker.pid) - before) / count * 1e6


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _worker(bench: Bench, option: str, settings: Mapping[str, str]) -> Iterator[Contender]:
    """Run a worker on a virtual host of its own for the length of a block."""
    with (
        bench.virtual_host() as url,
        bench.record() as record,
        tempfile.TemporaryDirectory(dir=bench.folder) as state,
    ):
        environment = worker_environment(url, record.path) | {"BROKER_APP_STATE_DIR": state} | settings
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.apps:ours", "worker", "-l", "WARNING"]
        command += ["-P", "threads", "-c", str(SLOTS), "-Q", QUEUE, "-n", "cost@localhost", *option.split()]
        with record.path.with_name("worker.log").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            wait_for(lambda: bool(record.starts(READY)), _WAIT_SECONDS, lambda: "a ready worker")
            yield Contender(make_ours(url), process.pid, record)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
