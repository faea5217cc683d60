"""Exactness of the counters: tasks of known waits and outcomes on each pool, over a restart of the node."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.metrics_tasks import AGAIN, EXPIRED, KNOWN, STARTED
from benchmarks.metrics_worker import running
from benchmarks.probe import READY
from benchmarks.report import Goal, Report
from benchmarks.waiting import wait_for
from benchmarks.worker import worker_environment
from broker_app import BrokerApp, publish_many
from broker_app.metrics import catalogue
from broker_app.metrics.reader import MetricsReader
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.bench import Bench
    from benchmarks.record import Record
    from broker_app.metrics.catalogue import Metric
    from broker_app.metrics.reader import Numbers

POOLS = ("prefork", "threads", "gevent", "asyncio")
QUEUES = ("default", "lopri")
_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Exactness:
    """The counts of a pool.

    Attributes:
        wrong: Tasks too many and too few, over all counters.
        misplaced: Waits further than one bucket from where the tasks themselves saw them.
        outcomes: Of messages.
        starts: Of tasks, as they wrote them down.
    """

    wrong: int
    misplaced: int
    outcomes: Counter[str]
    starts: int

    @property
    def told_outcomes(self) -> str:
        """The outcomes in words."""
        return ", ".join(f"{number:,} {name}" for name, number in sorted(self.outcomes.items()))


def run(bench: Bench) -> Report:
    """Publish tasks, end the node in the middle, start it again, and compare all that was counted."""
    count = bench.pick(10_000, 2_000)
    found = {}
    for pool in POOLS:
        found[pool] = _exactness(bench, pool, count)
        bench.say(f"{pool}: {found[pool]}")
    return Report(
        title=f"{count:,} tasks with known waits and outcomes on each pool, over a restart of the node",
        columns=("pool", "outcomes", "starts", "counted wrongly", "waits beyond a bucket"),
        rows=tuple(
            (pool, one.told_outcomes, *(f"{n:,}" for n in (one.starts, one.wrong, one.misplaced)))
            for pool, one in found.items()
        ),
        goals=(
            Goal.none("counted wrongly", sum(one.wrong for one in found.values())),
            Goal.none("waits beyond a bucket", sum(one.misplaced for one in found.values())),
        ),
        notes=(
            "One in ten raises, one in ten is retried once, one in ten has expired. Each start writes its own "
            "wait down, by the moment that the benchmark noted; the histogram may be one bucket off."
        ),
        samples={pool: (one.wrong, one.misplaced) for pool, one in found.items()},
    )


def _exactness(bench: Bench, pool: str, count: int) -> Exactness:
    with (
        bench.virtual_host() as url,
        bench.record() as record,
        tempfile.TemporaryDirectory(dir=bench.folder) as state,
    ):
        reader = MetricsReader(Path(state) / "metrics" / "exact")
        environment = worker_environment(url, record.path) | {"BROKER_APP_STATE_DIR": state}
        command = ["-m", "celery", "-A", "benchmarks.metrics_tasks:app", "worker", "-l", "WARNING", "-P", pool]
        command += ["-c", "4", "-Q", ",".join(QUEUES), "-n", "exact@localhost"]
        log, ended = record.path.with_name("worker.log"), count * 11 // 10  # the retried end twice
        with running(command, environment, log):
            wait_for(lambda: len(record.starts(READY)) == 1, _SECONDS, lambda: f"a worker: {log}")
            _publish(url, count)
            wait_for(lambda: _ended(reader) > count / 3, _SECONDS, lambda: "a third")
        with running(command, environment, log):
            wait_for(
                lambda: _ended(reader) >= ended,
                _SECONDS,
                lambda: f"{ended} ends, {_ended(reader)} came",
            )
            return _compared(reader.read().numbers, record, count)


def _publish(url: str, count: int) -> None:
    app = BrokerApp("exact", broker=url, set_as_current=False)

    def make() -> Iterator[object]:
        for number in range(count):
            options = {"expires": -5} if number % 10 == EXPIRED else {}
            queue = QUEUES[number // 10 % 2]
            yield app.signature(KNOWN, args=(number, time.time()), queue=queue, options=options)

    assert publish_many(make(), app=app).run().accepted == count


def _compared(numbers: Numbers, record: Record, count: int) -> Exactness:
    tenth = count // 10
    wanted = Counter({"succeeded": 8 * tenth, "failed": tenth, "retried": tenth, "revoked": tenth})
    outcomes, per_queue = (_by_label(numbers, catalogue.FINISHED, label) for label in ("outcome", "queue"))
    starts = [start.waited_seconds for start in record.starts(STARTED)]
    again = len(record.starts(AGAIN))
    waited, late = (_buckets(numbers, metric) for metric in (catalogue.WAITED_SECONDS, catalogue.LATE_SECONDS))
    counted = {
        catalogue.WAITED_SECONDS: (sum(waited), 9 * tenth + again),
        catalogue.WAITED_BROKER_SECONDS: (sum(_buckets(numbers, catalogue.WAITED_BROKER_SECONDS)), sum(waited)),
        catalogue.RUN_SECONDS: (sum(_buckets(numbers, catalogue.RUN_SECONDS)), len(starts) + again),
        catalogue.LATE_SECONDS: (sum(late), tenth),
        catalogue.DEAD_LETTERS: (_total(numbers, catalogue.DEAD_LETTERS), tenth),
    }
    wrong = sum(abs(outcomes[name] - wanted[name]) for name in outcomes | wanted)
    wrong += sum(abs(per_queue[queue] - wanted.total() // len(QUEUES)) for queue in QUEUES)
    wrong += sum(abs(number - expected) for number, expected in counted.values())
    first = [number - delayed for number, delayed in zip(waited, late, strict=True)]
    return Exactness(wrong, _misplaced(first, starts), outcomes, len(starts) + again)


def _misplaced(buckets: Sequence[int], waits: Sequence[float]) -> int:
    """Return how many waits are further than one bucket from the task's own, which are a little longer."""
    counted = list(accumulate(buckets))
    own = [sum(wait <= bound for wait in waits) for bound in BOUNDS_SECONDS] + [len(waits)]
    too_long = sum(max(0, mine - theirs) for mine, theirs in zip(own, counted, strict=True))
    too_short = sum(max(0, theirs - mine) for theirs, mine in zip(counted, own[1:], strict=False))
    return too_long + too_short


def _buckets(numbers: Numbers, metric: Metric) -> list[int]:
    rows = [values[:-1] for series, values in numbers.items() if series.metric is metric]
    return [int(sum(column)) for column in zip(*rows, strict=True)]


def _by_label(numbers: Numbers, metric: Metric, label: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for series, values in numbers.items():
        if series.metric is metric:
            found[series.labels[metric.labels.index(label)]] += int(values[0])
    return found


def _total(numbers: Numbers, metric: Metric) -> int:
    return _by_label(numbers, metric, "queue").total()


def _ended(reader: MetricsReader) -> int:
    return _total(reader.read().numbers, catalogue.FINISHED)
