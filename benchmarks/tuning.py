"""Whether the recommended number of slots is right: against a sweep of all, and against a known optimum."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, ratio, shown, shown_spread
from benchmarks.report import Goal, Report
from broker_app import BrokerApp
from broker_app.tuning import Call, Effort, Load, Plan, parse_profile, tune
from broker_app.tuning.place import private_place
from broker_app.tuning.trial import measure
from broker_app.tuning.worker import tuned_worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.bench import Bench

APP = "benchmarks.tuning:app"
QUEUE = "lopri"
CONNECTIONS = 20
"""What the simulated downstream serves at once: the known optimum is `CONNECTIONS / _DOWNSTREAM_SECONDS`."""

_PROFILES = {"5 ms": "wait=5ms,jitter=20%", "50 ms": "wait=50ms,jitter=20%", "500 ms": "wait=500ms,jitter=20%"}
_DOWNSTREAM_SECONDS = 0.05
_GRID = (1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)

app = BrokerApp("benchmarks", set_as_current=False)
_served = threading.BoundedSemaphore(CONNECTIONS)


@app.task(ignore_result=True)
def call_downstream() -> None:
    """Wait for one of the downstream's connections, and then for its answer."""
    with _served:
        time.sleep(_DOWNSTREAM_SECONDS)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One load: what was recommended and what each number of slots of the grid gave, round by round."""

    recommended: int
    rounds: dict[int, tuple[float, ...]]

    @property
    def best(self) -> int:
        """The number of slots with the best mean."""
        return max(self.rounds, key=lambda slots: sum(self.rounds[slots]) / len(self.rounds[slots]))


def run(bench: Bench) -> Report:
    """Recommend, sweep, and compare; and find a downstream's limit."""
    bound, effort = bench.pick(
        (256, Effort(1.5, 1.5, max_rounds=8)), (32, Effort(round_seconds=1.0, precision=0.1))
    )
    rows, goals, samples = [], [], {}
    with bench.virtual_host() as url, settings(url, bench.folder):
        loads = {name: Load((parse_profile(profile),), keeps_results=False) for name, profile in _PROFILES.items()}
        downstream = Load((Call(call_downstream.name),), keeps_results=False)
        for name, load in (loads | {f"{CONNECTIONS} connections": downstream}).items():
            outcome = _compare(bench, name, Plan(QUEUE, load, ("threads",), bound, effort=effort))
            chosen, best = outcome.rounds[outcome.recommended], outcome.rounds[outcome.best]
            share = ratio(chosen[: len(best)], best[: len(chosen)])
            rows.append(
                (
                    name,
                    str(outcome.recommended),
                    shown_spread(Spread.of(chosen)),
                    str(outcome.best),
                    shown(share.median),
                )
            )
            goals.append(Goal(f"{name}: recommended against the best of the sweep", share, 0.95))
            if load is downstream:
                reached = Spread.of([value * _DOWNSTREAM_SECONDS / CONNECTIONS for value in chosen])
                goals.append(Goal("recommended against the most that the downstream gives", reached, 0.9))
            samples |= {f"{name}: -c {slots}": values for slots, values in outcome.rounds.items()}
    return Report(
        title="the recommended number of slots against a sweep of all, on threads",
        columns=("load", "recommended -c", "its tasks/s", "best -c of the sweep", "share of the best"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"The sweep measures {len([slots for slots in _GRID if slots <= bound])} numbers of slots and the "
            "recommended one, each with a worker of its own; results are not stored, a prefetch of 2."
        ),
        samples=samples,
    )


def _compare(bench: Bench, name: str, plan: Plan) -> _Outcome:
    def say(text: str) -> None:
        bench.say(f"{name}: {text}")

    ours = BrokerApp("benchmarks", set_as_current=False)
    point = tune(ours, plan, app_name=APP, say=say).recommendation.point
    assert point is not None, f"{name}: nothing was recommended: the machine is not quiet"
    grid = sorted({*(slots for slots in _GRID if slots <= plan.bound), point.slots})
    rounds: dict[int, tuple[float, ...]] = {}
    with private_place(ours, QUEUE, lambda: None) as place:
        for slots in grid:
            with tuned_worker(place, APP, QUEUE, plan.load, ("threads", slots)) as worker:
                rounds[slots] = measure(worker, "threads", plan.effort).throughputs
            say(f"sweep: -c {slots}: {shown_spread(Spread.of(rounds[slots]))}")
    ours.close()
    return _Outcome(point.slots, rounds)


@contextmanager
def settings(url: str, folder: Path) -> Iterator[None]:
    """Set the broker and a state folder for this process and its workers."""
    ours = {
        "BROKER_APP_BROKER_URL": url,
        "BROKER_APP_STATE_DIR": str(folder / "state"),
        "BROKER_APP_QUEUES__LOPRI__PREFETCH": "2",  # as docs/tuning.md has it for tasks that are over soon
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
