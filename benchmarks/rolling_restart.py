"""Restarting a loaded fleet of two nodes: what is lost or fails, and how long nothing is consumed meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks.apps import make_careful, make_ours
from benchmarks.depth import depth
from benchmarks.figures import Spread, shown_spread
from benchmarks.probe import READY, send
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import OTHER_QUEUE, declare_ours, declare_plain
from benchmarks.waiting import wait_for
from benchmarks.worker import ROOT, worker_environment
from broker_app.queues import QueueSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery import Celery

    from benchmarks.bench import Bench
    from benchmarks.record import Record

OURS, PLAIN = "broker-app fleet restart", "celery multi restart, late acks, prefetch 1"
NODES, SLOTS, PACE_SECONDS, TASK_SECONDS = 2, 8, 0.02, 0.05
_CALM_SECONDS = 3.0
_READY_SECONDS = 120.0
_COMMAND_SECONDS = 300.0
_DRAIN_SECONDS = 120.0
_SETTINGS = f"[queues.default]\n[queues.lopri.fleet]\nnodes = {NODES}\nconcurrency = {SLOTS}\n"
_CLI = "import sys; from broker_app.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The effect of one restart.

    Attributes:
        lost: Tasks that never started.
        again: Starts beyond the first of a task.
        failed: Messages in the dead letters.
        gap_seconds: The longest time in which no task started, from before the restart until after it.
    """

    lost: int
    again: int
    failed: int
    gap_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.lost} lost, {self.again} again, {self.failed} failed, {self.gap_seconds:.2f} s without a start"
        )


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet's commands, run from the folder of the sources.

    Attributes:
        app: Publishes to it.
        url: Its virtual host.
        verbs: The words that start, restart and stop it.
        environment: Of all of them.
        dead_queue: Where its failed tasks are; None if they are nowhere.
    """

    app: Celery
    url: str
    verbs: dict[str, list[str]]
    environment: dict[str, str]
    dead_queue: str | None = None

    def dead(self) -> int:
        """Return how many tasks have failed."""
        return depth(self.url, self.dead_queue) if self.dead_queue else 0

    def run(self, verb: str) -> None:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, *self.verbs[verb]],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{verb}: exit code {done.returncode}: {done.stderr.strip()}")


def run(bench: Bench) -> Report:
    """Restart both kinds of fleet under a steady load, and compare."""
    rounds = bench.pick(3, 1)
    with bench.virtual_host() as ours, bench.virtual_host() as plain:
        declare_ours(ours)
        declare_plain(plain)
        measures = {
            OURS: lambda: _round(bench, ours, _ours),
            PLAIN: lambda: _round(bench, plain, _plain),
        }
        found = alternate(measures, rounds, bench.say)
    gaps = {name: Spread.of([one.gap_seconds for one in outcomes]) for name, outcomes in found.items()}
    rows = tuple(
        (
            name,
            *(str(sum(getattr(one, what) for one in outcomes)) for what in ("lost", "failed", "again")),
            shown_spread(gaps[name]),
        )
        for name, outcomes in found.items()
    )
    lost = Spread.of([float(one.lost + one.failed) for one in found[OURS]])
    return Report(
        title="a loaded fleet of two nodes is restarted",
        columns=("restart", "lost", "failed", "started again", "longest time without a start, s"),
        rows=rows,
        goals=(
            Goal("tasks lost or failed", lost, 0, is_ceiling=True, unit=""),
            Goal("longest time without a start", gaps[OURS], 1, is_ceiling=True, unit=" s"),
        ),
        notes=(
            f"{NODES} nodes of {SLOTS} threads, {1 / PACE_SECONDS:.0f} tasks a second of "
            f"{TASK_SECONDS * 1000:.0f} ms; {rounds} rounds, sums of the counts. "
            "`celery multi restart` ends all nodes and then starts them."
        ),
        samples={f"{name}: gap s": [one.gap_seconds for one in outcomes] for name, outcomes in found.items()},
    )


def _ours(folder: Path, url: str, environment: dict[str, str]) -> Fleet:
    config = folder / "broker.toml"
    config.write_text(_SETTINGS, encoding="utf-8")
    words = ["-c", _CLI, "-A", "benchmarks.apps:ours", "fleet"]
    verbs = {
        "start": [*words, "start", OTHER_QUEUE, "--wait", "120"],
        "restart": [*words, "restart", OTHER_QUEUE, "--wait", "120"],
        "stop": [*words, "stopwait", OTHER_QUEUE, "--kill"],
    }
    variables = {"BROKER_APP_CONFIG": str(config), "BROKER_APP_BROKER_URL": url}
    dead_queue = QueueSpec(OTHER_QUEUE).dead_name
    return Fleet(make_ours(url), url, verbs, environment | variables, dead_queue)


def _plain(folder: Path, url: str, environment: dict[str, str]) -> Fleet:
    files = [f"--pidfile={folder}/%n.pid", f"--logfile={folder}/%n.log"]
    nodes = [f"plain{number}" for number in range(NODES)]
    options = [
        "-A",
        "benchmarks.apps:careful",
        "-Q",
        OTHER_QUEUE,
        "-P",
        "threads",
        "-c",
        str(SLOTS),
        "-l",
        "WARNING",
    ]
    words = ["-m", "celery", "multi"]
    verbs = {
        "start": [*words, "start", *nodes, *options, *files],
        "restart": [*words, "restart", *nodes, *options, *files],
        "stop": [*words, "stopwait", *nodes, *files],
    }
    return Fleet(make_careful(url), url, verbs, environment)


def _round(bench: Bench, url: str, make: Callable[[Path, str, dict[str, str]], Fleet]) -> Outcome:
    """Start a fleet, restart it while tasks come at a steady pace, and count."""
    with bench.record() as record:
        fleet = make(record.path.parent, url, worker_environment(url, record.path))
        dead = fleet.dead()
        try:
            fleet.run("start")
            _wait_ready(record, NODES)
            with _load(fleet.app) as labels:
                time.sleep(_CALM_SECONDS)
                fleet.run("restart")
                _wait_ready(record, 2 * NODES)
                time.sleep(_CALM_SECONDS)
            return _count(record, labels, fleet.dead() - dead)
        finally:
            fleet.run("stop")


def _count(record: Record, labels: list[str], failed: int) -> Outcome:
    with suppress(TimeoutError):  # what has not started by then is counted as lost
        wait_for(lambda: all(record.starts(label) for label in labels), _DRAIN_SECONDS, lambda: "all starts")
    starts = [record.starts(label) for label in labels]
    moments = sorted(start.started for runs in starts for start in runs)
    return Outcome(
        lost=sum(not runs for runs in starts),
        again=sum(max(0, len(runs) - 1) for runs in starts),
        failed=failed,
        gap_seconds=max(after - before for before, after in pairwise(moments)),
    )


def _wait_ready(record: Record, count: int) -> None:
    wait_for(lambda: len(record.starts(READY)) >= count, _READY_SECONDS, lambda: f"{count} ready nodes")


@contextmanager
def _load(app: Celery) -> Iterator[list[str]]:
    """Send tasks at a steady pace for the length of a block; the list holds a label for each."""
    labels: list[str] = []
    is_over = threading.Event()

    def publish() -> None:
        started = time.monotonic()
        while not is_over.wait(max(0.0, started + len(labels) * PACE_SECONDS - time.monotonic())):
            label = f"task-{len(labels)}"
            send(app, label, None, TASK_SECONDS, queue=OTHER_QUEUE)
            labels.append(label)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield labels
    finally:
        is_over.set()
        thread.join()
