"""Trial of one pool and slot count: warm-up, rounds at full load until they agree, then a partial load."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker_app.errors import TuningError
from broker_app.tuning.measurement import Durations, Measurement, relative_error
from broker_app.tuning.proc_usage import mean_usage, sample, usage_between
from broker_app.tuning.task_log import completed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_app.tuning.measurement import Usage
    from broker_app.tuning.worker import TunedWorker

LOAD_SHARE = 0.8
"""Share of the throughput at which wait and latency are measured, because a queue only grows at full load."""

_PAUSE_SECONDS = 0.05
_AHEAD = 1.3
_MIN_ARRIVALS = 15
_LONGEST_WARM_UP_SECONDS = 120.0
_STARVED_TRIES = 5


@dataclass(frozen=True, slots=True)
class TrialEffort:
    """Duration and precision of the measurements.

    Attributes:
        round_seconds: Duration of a round; longer for tasks that run longer.
        warm_up_seconds: Minimum warm-up after the worker's first finished task.
        min_rounds: Rounds of each point.
        max_rounds: Maximum rounds of a deciding point.
        precision: Target for the relative error of a deciding point, as a share to each side.
    """

    round_seconds: float = 3.0
    warm_up_seconds: float = 2.0
    min_rounds: int = 3
    max_rounds: int = 12
    precision: float = 0.05


@dataclass
class _Rounds:
    throughputs: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)


def measure(worker: TunedWorker, pool: str, effort: TrialEffort, known: Measurement | None = None) -> Measurement:
    """Measure a worker that has just become ready.

    Args:
        worker: The worker.
        pool: Its pool.
        effort: Without ``known``, ``min_rounds`` are run; with it, rounds are added until they agree or
            ``max_rounds`` is reached.
        known: Measurement of an earlier worker with the same pool and slots; its rounds count too.

    Raises:
        TuningError: A task failed, the worker ended, or no task finished.
        PublishError: The broker did not accept the messages.
    """
    rate = _warm_up(worker, effort)
    rounds = _Rounds()
    starved = 0
    earlier = known.throughputs if known else ()
    while not _is_enough((*earlier, *rounds.throughputs), len(rounds.throughputs), effort):
        done = _run_round(worker, rate, effort, rounds)
        if done is None:
            rate = rounds.throughputs[-1]
            continue
        starved, rate = starved + 1, 2 * max(rate, done)
        if starved > _STARVED_TRIES:
            raise TuningError("the worker consumes messages faster than they can be published; try fewer slots")
    wait, latency = _below_full_load(worker, rate, effort)
    run = Durations.of(rounds.seconds)
    usage = mean_usage(rounds.usages)
    return Measurement(pool, worker.slots, (*earlier, *rounds.throughputs), run, wait, latency, usage)


def _is_enough(throughputs: Sequence[float], new: int, effort: TrialEffort) -> bool:
    if new < effort.min_rounds:
        return False
    is_first_look = len(throughputs) == new
    return (
        is_first_look or len(throughputs) >= effort.max_rounds or relative_error(throughputs) <= effort.precision
    )


def _warm_up(worker: TunedWorker, effort: TrialEffort) -> float:
    """Keep the slots busy until each has run and the warm-up is over; return the final tasks per second."""
    give_up = time.monotonic() + _LONGEST_WARM_UP_SECONDS
    first = 0.0
    worker.feed(2 * worker.slots)
    while not (
        first and time.time() - first >= effort.warm_up_seconds and len(worker.record.runs) >= worker.slots
    ):
        if time.monotonic() > give_up:
            raise TuningError(
                f"{len(worker.record.runs)} tasks ended in {_LONGEST_WARM_UP_SECONDS:g} s with {worker.slots} "
                f"slots; tune with a shorter task"
            )
        worker.pause(_PAUSE_SECONDS)
        if worker.record.runs and not first:
            first = time.time()
        if worker.waiting < worker.slots + _recent_rate(worker) / 2:
            worker.feed(2 * worker.slots + int(_recent_rate(worker)))
    return max(_recent_rate(worker), 1 / _longest(worker))


def _recent_rate(worker: TunedWorker) -> float:
    return float(len(worker.record.ended_since(time.time() - 1.0)))


def _longest(worker: TunedWorker) -> float:
    return max((run.seconds for run in worker.record.runs[-2 * worker.slots :]), default=0.0) or _PAUSE_SECONDS


def _run_round(worker: TunedWorker, rate: float, effort: TrialEffort, rounds: _Rounds) -> float | None:
    """Measure one round and add it; if messages ran out, add nothing and return the throughput so far."""
    longest = _longest(worker)
    seconds = max(effort.round_seconds, min(longest, 10 * effort.round_seconds))
    missing = int(rate * (seconds + 2 * longest + 1) * _AHEAD) + 2 * worker.slots - worker.waiting
    if missing > 0:
        worker.feed(missing)
        worker.pause(_PAUSE_SECONDS)
    before, begin = sample(worker.pid), time.time()
    worker.pause(seconds)
    after, end = sample(worker.pid), time.time()
    worker.pause(2 * _longest(worker) + _PAUSE_SECONDS)  # tasks started in the round finish
    runs = worker.record.ended_since(begin)
    throughput = completed(runs, begin, end) / (end - begin)
    if worker.waiting < 1:
        return throughput
    rounds.throughputs.append(throughput)
    rounds.seconds += [run.seconds for run in runs if run.started < end]
    rounds.usages.append(usage_between(worker.pid, before, after, end - begin))
    return None


def _below_full_load(
    worker: TunedWorker, rate: float, effort: TrialEffort
) -> tuple[Durations | None, Durations | None]:
    """Return wait and latency of tasks with random arrivals at `LOAD_SHARE` of the throughput."""
    worker.discard()
    worker.pause(2 * _longest(worker) + _PAUSE_SECONDS)
    seconds = min(max(effort.round_seconds, _MIN_ARRIVALS / (LOAD_SHARE * rate)), 5 * effort.round_seconds)
    begin = time.time()
    worker.feed_at_random(LOAD_SHARE * rate, seconds)
    worker.pause(4 * _longest(worker) + _PAUSE_SECONDS)
    runs = [run for run in worker.record.ended_since(begin) if run.published >= begin]
    if not runs:
        return None, None
    waits = [max(0.0, run.started - run.published) for run in runs]
    return Durations.of(waits), Durations.of([run.ended - run.published for run in runs])
