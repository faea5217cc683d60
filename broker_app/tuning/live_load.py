"""Live load: observes a queue's tasks on this host, with their run times and CPU use.

Run times come from this host's metrics. The CPU time of a task itself cannot be observed directly, because the
worker's overhead occurs in the same processes. It is estimated as the difference between two workers at the same
rate: a live one, and a private one whose tasks only wait.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker_app.broker.access import connect
from broker_app.errors import TuningError
from broker_app.metrics.catalogue import RUN_SECONDS
from broker_app.metrics.reader import MetricsReader
from broker_app.metrics.registry import folder_of
from broker_app.tuning.live_workers import local_nodes
from broker_app.tuning.load import MAX_PROFILE_SECONDS, SIMULATED_TASK, SampleCall, TaskLoad
from broker_app.tuning.proc_usage import sample, usage_between
from broker_app.tuning.readable import shown_duration, shown_number
from broker_app.tuning.sandbox import private_place
from broker_app.tuning.worker import tuned_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker_app.app import BrokerApp
    from broker_app.tuning.live_workers import WatchedWorker
    from broker_app.tuning.proc_usage import UsageSample
    from broker_app.tuning.worker import TunedWorker

WATCH_SECONDS = 20.0
MIN_TASKS = 20
"""Tasks that must end during the observation; with fewer, the CPU figures mean nothing."""

MAX_TASKS = 5
"""Maximum number of distinct tasks in a load: those that take most of the slots' time."""

TURNS = 20
"""Length of the cycle of calls. Each task appears in proportion to its frequency, and at least once."""

_WARM_UP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ObservedTask:
    """Figures of one task.

    Attributes:
        name: The task's name.
        count: Number of runs.
        seconds: Mean run time.
        jitter: The half-width of its run times, as a share of the mean, 0..1.
        ignore_result: Whether its results are not stored.
    """

    name: str
    count: int
    seconds: float
    jitter: float
    ignore_result: bool = False

    @classmethod
    def of(cls, name: str, bounds: Sequence[float], numbers: Sequence[float]) -> ObservedTask:
        """Return the figures from a histogram.

        The mean is exact. The jitter is that of a uniform distribution with the variance of the bucket midpoints.

        Args:
            name: The task's name.
            bounds: Upper bounds of the buckets.
            numbers: Count of each bucket, count above the last bound, and sum of the run times.
        """
        *counts, total = numbers
        count = int(sum(counts))
        middles = [(low + high) / 2 for low, high in zip((0.0, *bounds), (*bounds, bounds[-1]), strict=True)]
        mean = sum(map(math.prod, zip(counts, middles, strict=True))) / count
        variance = sum(n * (middle - mean) ** 2 for n, middle in zip(counts, middles, strict=True)) / count
        return cls(name, count, total / count, min(1.0, math.sqrt(3 * variance) / mean))

    def __str__(self) -> str:
        words = f"{self.name}: {self.count} runs of {shown_duration(self.seconds)} ±{100 * self.jitter:.0f} %"
        return f"{words}, results ignored" if self.ignore_result else words


@dataclass(frozen=True, slots=True)
class ObservedLoad:
    """Load of a queue's workers on this host.

    Attributes:
        queue: The queue's name in the settings.
        seconds: Duration of the observation.
        tasks: The tasks that take most of the slots' time, in descending order.
        nodes: Number of workers.
        pool: Pool of the first worker.
        slots: Slots of the first worker.
        pace: Completed tasks per second, of all nodes.
        cpu_cores: Cores used by all nodes.
    """

    queue: str
    seconds: float
    tasks: tuple[ObservedTask, ...]
    nodes: int
    pool: str
    slots: int
    pace: float
    cpu_cores: float

    def calls(self, cpu_seconds: float) -> tuple[SampleCall, ...]:
        """Return simulated calls in the proportions of the tasks, each computing for at most its run time."""
        return tuple(_call(task, cpu_seconds) for task in take_turns(self.tasks))

    def __str__(self) -> str:
        return (
            f"{self.nodes} node(s), {self.pool} -c {self.slots}, {shown_number(self.pace)} tasks a second, "
            f"{self.cpu_cores:.2f} cores; {'; '.join(map(str, self.tasks))}"
        )


def observe(app: BrokerApp, queue: str, seconds: float = WATCH_SECONDS) -> ObservedLoad:
    """Observe a queue's workers on this host without changing anything.

    Args:
        app: The app whose workers and metrics are read. Its registered tasks say whether results are ignored.
        queue: The queue's name in the settings.
        seconds: Duration of the observation.

    Raises:
        TuningError: Metrics are off, no worker that consumes only this queue runs here, too few tasks ended, or
            they run longer than a simulated task may.
        BrokerError: The broker is unreachable.
    """
    if not app.settings.metrics.enabled:
        raise TuningError("--from-metrics: expected metrics, got [metrics] enabled = false in the settings")
    with connect(app):
        nodes = local_nodes(app, queue)
    if not nodes:
        raise TuningError(
            f"--from-metrics: expected workers of {queue!r} alone on this host, got none; `broker-app fleet start`"
        )
    reader = MetricsReader(folder_of(app))
    ran, before, begin = _count(reader, queue), _samples(nodes), time.monotonic()
    time.sleep(seconds)
    elapsed, now = time.monotonic() - begin, _count(reader, queue)
    ended = sum(task.count for task in now) - sum(task.count for task in ran)
    if ended < MIN_TASKS:
        raise TuningError(
            f"--from-metrics: expected {MIN_TASKS} tasks of {queue!r} to end on this host within {seconds:g} s, "
            f"{ended} did; use --profile"
        )
    longest_first = sorted(now, key=lambda task: task.count * task.seconds, reverse=True)
    tasks = tuple(replace(task, ignore_result=_ignores(app, task)) for task in longest_first[:MAX_TASKS])
    longest = max(tasks, key=lambda task: task.seconds)
    if longest.seconds > MAX_PROFILE_SECONDS:
        raise TuningError(f"--from-metrics: expected runs of up to {MAX_PROFILE_SECONDS:g} s, got {longest}")
    after = _samples(nodes)
    cpu_cores = sum(usage_between(pid, before[pid], after[pid], elapsed).cpu_cores for pid in before)
    node = nodes[0]
    return ObservedLoad(queue, elapsed, tasks, len(nodes), node.pool, node.slots, ended / elapsed, cpu_cores)


def cpu_seconds(
    app: BrokerApp, observed: ObservedLoad, *, keeps_results: bool, app_name: str, on_leaving: Callable[[], object]
) -> float:
    """Return the CPU seconds of a task: the use of the live workers minus that of one whose tasks only wait.

    Args:
        app: The app whose settings the private worker uses.
        observed: The live load. The private worker is measured for the same duration.
        keeps_results: Whether the private worker stores results of tasks that do not ignore them.
        app_name: Celery's ``-A``.
        on_leaving: Called before the clean-up, which must not be interrupted.

    Raises:
        TuningError: The worker did not start, or ended.
        BrokerError, PublishError: The broker is unreachable.
    """
    load = TaskLoad(observed.calls(0.0), keeps_results)
    pool_and_slots = observed.pool, observed.slots
    with (
        private_place(app, observed.queue, on_leaving) as sandbox,
        tuned_worker(sandbox, app_name, observed.queue, load, pool_and_slots) as worker,
    ):
        pace = observed.pace / observed.nodes
        worker.feed_at_random(pace, _WARM_UP_SECONDS)
        own = _cores_at(worker, pace, observed.seconds)
    return max(0.0, observed.cpu_cores / observed.nodes - own) / pace


def take_turns(tasks: Sequence[ObservedTask]) -> list[ObservedTask]:
    """Return an evenly interleaved cycle of tasks, each in proportion to its runs and at least once."""
    if len(tasks) == 1:
        return list(tasks)
    total = sum(task.count for task in tasks)
    wanted = {task: max(1, round(TURNS * task.count / total)) for task in tasks}
    turns = [((turn + 0.5) / count, task) for task, count in wanted.items() for turn in range(count)]
    return [task for _, task in sorted(turns, key=lambda turn: turn[0])]


def _call(task: ObservedTask, cpu_seconds: float) -> SampleCall:
    computing = min(cpu_seconds, task.seconds)
    args = task.seconds - computing, computing, task.jitter
    return SampleCall(SIMULATED_TASK, args, ignore_result=task.ignore_result)


def _ignores(app: BrokerApp, task: ObservedTask) -> bool:
    registered = app.tasks.get(task.name)
    return registered is not None and bool(registered.ignore_result)


def _cores_at(worker: TunedWorker, pace: float, seconds: float) -> float:
    before, begin = sample(worker.pid), time.monotonic()
    worker.feed_at_random(pace, seconds)
    after, elapsed = sample(worker.pid), time.monotonic() - begin
    return usage_between(worker.pid, before, after, elapsed).cpu_cores


def _samples(nodes: Iterable[WatchedWorker]) -> dict[int, UsageSample]:
    return {node.pid: sample(node.pid) for node in nodes}


def _count(reader: MetricsReader, queue: str) -> list[ObservedTask]:
    """Return the tasks of a queue in this host's metrics."""
    return [
        ObservedTask.of(series.labels[1], series.bounds, numbers)
        for series, numbers in reader.read().numbers.items()
        if series.metric is RUN_SECONDS and series.labels[0] == queue and any(numbers[:-1])
    ]
