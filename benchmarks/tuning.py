"""Quality of the recommended number of slots: against a sweep of all, and against a known optimum."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown, shown_spread
from benchmarks.report import Goal, Report
from broker_app import BrokerApp
from broker_app.tuning import SampleCall, SweepPlan, TaskLoad, TrialEffort, parse_profile, tune
from broker_app.tuning.sandbox import private_place
from broker_app.tuning.trial import measure
from broker_app.tuning.worker import tuned_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.bench import Bench

APP = "benchmarks.tuning:app"
QUEUE = "lopri"
CONNECTIONS = 20
"""Concurrency of the simulated downstream: the known optimum is `CONNECTIONS / _DOWNSTREAM_SECONDS`."""

DUELS = 3
GOAL, GOAL_KNOWN = 0.95, 0.9

PRECISION = 0.1
"""With the default of 0.05 nothing was recommended: at the processors' limit a shared machine is too noisy."""

_DOWNSTREAM = f"{CONNECTIONS} connections"
_PROFILES = {"5 ms": "wait=5ms,jitter=20%", "50 ms": "wait=50ms,jitter=20%", "500 ms": "wait=500ms,jitter=20%"}
_DOWNSTREAM_SECONDS = 0.05
_GRID = (1, 4, 8, 16, 24, 32, 48, 64, 128, 256)
_HOW = (
    f"The sweep measures -c {', '.join(map(str, _GRID))} and the recommended one, each with a worker of its own; "
    f"the best of it, which had luck too, and the recommended one are then measured {DUELS} times more, in turn. "
    f"Results are not stored, a prefetch of 2, `--precision {PRECISION:g}`."
)

app = BrokerApp("benchmarks", set_as_current=False)
_served = threading.BoundedSemaphore(CONNECTIONS)


@app.task(ignore_result=True)
def call_downstream() -> None:
    """Wait for one of the downstream's connections, and then for its answer."""
    with _served:
        time.sleep(_DOWNSTREAM_SECONDS)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One load: what was recommended, what each number of slots of the grid gave, and the two against each other.

    Attributes:
        recommended: Slots.
        best: Slots that had the best mean of the sweep.
        swept: Throughputs of the sweep, by slots.
        duel: Those of the recommended and of the best, in turn, each of a worker of its own.
    """

    recommended: int
    best: int
    swept: dict[int, tuple[float, ...]]
    duel: tuple[list[float], list[float]]


def run(bench: Bench) -> Report:
    """Recommend, sweep, and compare; and find a downstream's limit."""
    bound, effort = bench.pick(
        (256, TrialEffort(1.5, 1.5, max_rounds=9, precision=PRECISION)),
        (32, TrialEffort(1.0, precision=PRECISION)),
    )
    rows, goals, notes = [], [], []
    samples: dict[str, Sequence[float]] = {}
    with bench.virtual_host() as url, settings(url, bench.folder):
        for name, load in _loads().items():
            outcome = _compare(bench, name, SweepPlan(QUEUE, load, ("threads",), bound, effort=effort))
            if isinstance(outcome, str):
                notes.append(f"{name}: nothing was recommended: {outcome}.")
                continue
            mine, rival = outcome.duel
            share = ratio(mine, rival)
            numbers = str(outcome.recommended), shown_spread(Spread.of(mine)), str(outcome.best)
            rows.append((name, *numbers, shown(share.median)))
            goals.append(Goal(f"{name}: recommended against the best of the sweep", share, GOAL))
            if name == _DOWNSTREAM:
                reached = Spread.of([value * _DOWNSTREAM_SECONDS / CONNECTIONS for value in mine])
                goals.append(Goal("recommended against the most that the downstream gives", reached, GOAL_KNOWN))
            samples |= {f"{name}: -c {slots}": values for slots, values in outcome.swept.items()}
            samples |= {f"{name}: recommended": mine, f"{name}: best": rival}
    return Report(
        title="the recommended number of slots against a sweep of all, on threads",
        columns=("load", "recommended -c", "its tasks/s", "best -c of the sweep", "share of the best"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=" ".join([_HOW, *notes]),
        samples=samples,
    )


def _loads() -> dict[str, TaskLoad]:
    loads = {name: TaskLoad((parse_profile(profile),), keeps_results=False) for name, profile in _PROFILES.items()}
    return loads | {_DOWNSTREAM: TaskLoad((SampleCall(call_downstream.name),), keeps_results=False)}


def _compare(bench: Bench, name: str, plan: SweepPlan) -> _Outcome | str:
    """Return how good the recommendation is, or why it is missing."""

    def say(text: str) -> None:
        bench.say(f"{name}: {text}")

    ours = BrokerApp("benchmarks", set_as_current=False)
    recommendation = tune(ours, plan, app_name=APP, say=say).recommendation
    if recommendation.point is None:
        return "; ".join(recommendation.refusals)
    recommended = recommendation.point.slots
    with private_place(ours, QUEUE, lambda: None) as place:

        def visit(slots: int, effort: TrialEffort) -> tuple[float, ...]:
            with tuned_worker(place, APP, QUEUE, plan.load, ("threads", slots)) as worker:
                throughputs = measure(worker, "threads", effort).throughputs
            say(f"-c {slots}: {shown_spread(Spread.of(throughputs))}")
            return throughputs

        grid = sorted({*(slots for slots in _GRID if slots <= plan.bound_of("threads")), recommended})
        swept = {slots: visit(slots, replace(plan.effort, min_rounds=2)) for slots in grid}
        best = max(swept, key=lambda slots: fmean(swept[slots]))
        pairs = [[fmean(visit(slots, plan.effort)) for slots in (recommended, best)] for _ in range(DUELS)]
    ours.close()
    return _Outcome(recommended, best, swept, ([mine for mine, _ in pairs], [rival for _, rival in pairs]))


@contextmanager
def settings(url: str, folder: Path) -> Iterator[None]:
    """Set the broker and a state folder for this process and its workers."""
    ours = {
        "BROKER_APP_BROKER_URL": url,
        "BROKER_APP_STATE_DIR": str(folder / "state"),
        "BROKER_APP_QUEUES__LOPRI__PREFETCH": "2",  # as docs/how-to/tuning.md has it for tasks that are over soon
    }
    before = {name: value for name, value in os.environ.items() if name.startswith("BROKER_APP_")}
    for name in before:
        del os.environ[name]
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)
