"""Starting: a worker until it is ready, `celery --help` with our commands and without, `broker-app --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown_spread
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE
from benchmarks.worker import running_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

CELERY_HELP, WITHOUT = "`celery --help`", "`celery --help` without our commands"
BROKER_APP_HELP = "`broker-app --help`"
WORKER, PLAIN_WORKER = "worker ready, broker-app", "worker ready, Celery"
_SLOTS = 4
_BOUND_SECONDS = 60.0

_FILTER = """
import importlib.metadata as metadata
every = metadata.entry_points
def others(**kind):
    return [point for point in every(**kind) if not point.value.startswith("broker_app.")]
if {is_filtered}:
    metadata.entry_points = others
from celery.__main__ import main
import sys
sys.argv = ["celery", "--help"]
main()
"""
"""`celery --help`; both contenders run the same lines."""


def run(bench: Bench) -> Report:
    """Start each in turn, and take the time by the clock."""
    rounds = bench.pick(11, 3)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start would compile our modules
    with bench.virtual_host() as url, bench.virtual_host() as plain_url:
        contenders: dict[str, Callable[[], float]] = {
            CELERY_HELP: partial(_seconds, "-c", _FILTER.format(is_filtered=False)),
            WITHOUT: partial(_seconds, "-c", _FILTER.format(is_filtered=True)),
            BROKER_APP_HELP: partial(_seconds, "-c", "from broker_app.cli import main; main(['--help'])"),
            WORKER: partial(_until_ready, bench, "ours", url),
            PLAIN_WORKER: partial(_until_ready, bench, "careful", plain_url),
        }
        for start in contenders.values():
            start()  # compiles modules, declares queues
        seconds = alternate(contenders, rounds, bench.say)
    return Report(
        title=f"starting, {rounds} rounds",
        columns=("what", "seconds"),
        rows=tuple((name, shown_spread(Spread.of(values))) for name, values in seconds.items()),
        goals=(
            _at_most("`celery --help` against without", 1.1, ratio(seconds[CELERY_HELP], seconds[WITHOUT])),
            _at_most(BROKER_APP_HELP, 0.35, Spread.of(seconds[BROKER_APP_HELP]), " s"),
            _at_most("worker against Celery's", 1.25, ratio(seconds[WORKER], seconds[PLAIN_WORKER])),
        ),
        notes=(
            "By the clock, whole processes, modules compiled. Both workers have four threads and one queue that "
            "exists; no other worker runs, for whose replies Celery waits a second."
        ),
        samples={name: tuple(values) for name, values in seconds.items()},
    )


def _at_most(what: str, limit: float, measured: Spread, unit: str = "x") -> Goal:
    return Goal(what, measured, limit, is_ceiling=True, unit=unit)


def _seconds(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=_BOUND_SECONDS)
    return time.perf_counter() - began


def _until_ready(bench: Bench, app: str, url: str) -> float:
    with bench.record() as record:
        began = time.perf_counter()
        with running_worker(app, url, record, QUEUE, _SLOTS):
            return time.perf_counter() - began
