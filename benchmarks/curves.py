"""The curves of docs/how-to/tuning.md: slots and throughput, for three pools and four loads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.figures import shown
from benchmarks.report import Report
from benchmarks.tuning import APP, QUEUE, settings
from benchmarks.worker import ROOT
from broker_app import BrokerApp
from broker_app.tuning import SweepPlan, TaskLoad, TrialEffort, parse_profile, tune
from broker_app.tuning.chart import draw
from broker_app.tuning.limits import WORDS

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from broker_app.tuning.recommendation import PoolResult

POOLS = ("prefork", "threads", "gevent")
LOADS = {
    "5ms": ("wait=5ms,jitter=20%",),
    "50ms": ("wait=50ms,jitter=20%",),
    "500ms": ("wait=500ms,jitter=20%",),
    "mixed": ("wait=50ms,jitter=20%", "wait=20ms,cpu=10ms,jitter=20%"),
}
"""By the names of their pictures; the mixed one's tasks take turns."""

FOLDER = ROOT / "docs" / "curves"


def run(bench: Bench) -> Report:
    """Tune for each load, and draw its curves into docs/curves, from a quick look into the run's folder."""
    bound, effort = bench.pick(
        (128, TrialEffort(1.5, 1.5, max_rounds=4, precision=0.15)),
        (32, TrialEffort(1.0, max_rounds=3, precision=0.2)),
    )
    folder = bench.pick(FOLDER, bench.folder)
    folder.mkdir(exist_ok=True)
    rows = []
    with bench.virtual_host() as url, settings(url, bench.folder):
        for name, profiles in LOADS.items():
            load = TaskLoad(tuple(map(parse_profile, profiles)), keeps_results=False)
            ours = BrokerApp("benchmarks", set_as_current=False)
            plan = SweepPlan(QUEUE, load, POOLS, bound, effort=effort)
            tuning = tune(ours, plan, app_name=APP, say=partial(_say, bench, name))
            ours.close()
            (folder / f"{name}.svg").write_text(draw(tuning), encoding="utf-8")
            rows += [_row(str(load), result) for result in tuning.results]
    return Report(
        title=f"throughput over slots, up to {bound}, one node",
        columns=(
            "load",
            "pool",
            "knee, -c",
            "its tasks a second",
            "the most, -c",
            "its tasks a second",
            "CPU",
            "then",
        ),
        rows=tuple(rows),
        notes=(
            "Results are not stored, a prefetch of 2. CPU: cores that the node used at the most slots. "
            "The curves: docs/curves."
        ),
    )


def _say(bench: Bench, name: str, text: str) -> None:
    bench.say(f"{name}: {text}")


def _row(load: str, result: PoolResult) -> tuple[str, ...]:
    best, knee, last = result.best, result.knee, result.points[max(result.points)]
    found = (str(knee.slots), shown(knee.throughput)) if knee else ("-", "-")
    cores = shown(last.usage.cpu_cores)
    return load, result.pool, *found, str(best.slots), shown(best.throughput), cores, WORDS[result.ceiling]
