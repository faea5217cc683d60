"""Publishing many tasks: all at once by `publish_many`, one by one by the others, and raw frames as the bound."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import repeat
from typing import TYPE_CHECKING, Any

from benchmarks.apps import make_ours, make_plain
from benchmarks.depth import purge, wait_for_depth
from benchmarks.figures import Spread, ratio, shown, shown_spread
from benchmarks.one_by_one import Pace, pace
from benchmarks.pipeline import probes
from benchmarks.pipeline import publish_many as publish_raw
from benchmarks.probe import TASK
from benchmarks.publishing import CELERY, DRAMATIQ, celery_sender, dramatiq_sender
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from benchmarks.topologies import QUEUE, declare_ours, declare_plain, direct_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench

OURS, RAW, TASKIQ = "broker-app, `publish_many`", "raw py-amqp, pipelined confirms", "taskiq"
GOALS = {CELERY: 8.0, DRAMATIQ: 5.0, TASKIQ: 5.0, RAW: 0.7}
MOST_GROWTH_MB = 30.0
_RAMP = 5_000
"""Tasks before the memory is measured the first time: what is loaded once is not what a million costs."""

_MEMORY = """
import json, resource, sys
from benchmarks.apps import make_ours
app, ramp, count = make_ours(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
task, peaks = app.tasks["benchmarks.probe"], []
for amount in (ramp, count):
    assert app.publish_many(task.s("published") for _ in range(amount)).run().accepted == amount
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


def run(bench: Bench) -> Report:
    """Publish in turn with each, to a quorum queue of its own, then look at the memory of a long run."""
    many, few, rounds = bench.pick((10_000, 2_000, 5), (3_000, 500, 3))
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], Pace]] = {}
        for name, make, count in (
            (OURS, _ours, many),
            (RAW, _raw, many),
            (CELERY, _celery, few),
            (DRAMATIQ, _dramatiq, few),
            *([(TASKIQ, _taskiq, few)] if find_spec("taskiq_aio_pika") else ()),
        ):
            url = stack.enter_context(bench.virtual_host())
            measure = make(stack, url)
            _checked(measure, url, count // 10)
            contenders[name] = partial(_checked, measure, url, count)
        paces = alternate(contenders, rounds, bench.say)
        counts = bench.pick((20_000, 200_000), (5_000, 20_000))
        growths = [_growth(stack.enter_context(bench.virtual_host()), count) for count in counts]
    return _report(paces, dict(zip(counts, growths, strict=True)), many, rounds)


def _report(paces: dict[str, list[Pace]], growths: dict[int, float], many: int, rounds: int) -> Report:
    rates = {name: [one.per_second for one in paces[name]] for name in paces}
    work = {name: [one.cpu_microseconds for one in paces[name]] for name in paces}
    others = [name for name in rates if name != OURS]
    goals = [Goal(f"against {name}", ratio(rates[OURS], rates[name]), GOALS[name]) for name in others]
    largest = max(growths.values())
    goals.append(Goal("memory above the start", Spread.of([largest]), MOST_GROWTH_MB, is_ceiling=True, unit=" MB"))
    memory = ", ".join(f"{count:,} tasks {shown(growth)} MB" for count, growth in growths.items())
    return Report(
        title=f"{many:,} small tasks a round, {rounds} rounds",
        columns=("contender", "tasks a second", "`publish_many` is faster by", "CPU for each, µs"),
        rows=tuple(
            (
                name,
                shown_spread(Spread.of(rates[name])),
                shown_spread(ratio(rates[OURS], rates[name]), "x"),
                shown_spread(Spread.of(work[name])),
            )
            for name in rates
        ),
        goals=tuple(goals),
        notes=(
            "All confirm persistent messages into a quorum queue. The raw publisher sends the same headers and "
            "bodies, made before the clock starts. Peak memory of a process above its peak after the first "
            f"{_RAMP:,}, signatures from a generator: {memory}."
        ),
        samples=rates | {f"{name}: CPU µs": work[name] for name in work},
    )


def _checked(measure: Callable[[int], Pace], url: str, count: int) -> Pace:
    """Publish, see that all are there, and return how quick it was."""
    measured = measure(count)
    wait_for_depth(url, QUEUE, count)
    purge(url, QUEUE)
    return measured


def _ours(stack: ExitStack, url: str) -> Callable[[int], Pace]:
    del stack
    declare_ours(url)
    app = make_ours(url)
    task = app.tasks[TASK]

    def measure(count: int) -> Pace:
        run = app.publish_many(task.s("published") for _ in range(count))
        return pace(partial(next, run), count)

    return measure


def _raw(stack: ExitStack, url: str) -> Callable[[int], Pace]:
    del stack
    declare_ours(url)
    make = probes(make_ours(url), "published")

    def measure(count: int) -> Pace:
        messages = iter([make() for _ in range(count)])
        return publish_raw(url, count, partial(next, messages), partial(next, repeat(direct_route())))

    return measure


def _celery(stack: ExitStack, url: str) -> Callable[[int], Pace]:
    del stack
    declare_plain(url)
    return partial(pace, celery_sender(make_plain(url)))


def _dramatiq(stack: ExitStack, url: str) -> Callable[[int], Pace]:
    return partial(pace, dramatiq_sender(stack, url))


def _taskiq(stack: ExitStack, url: str) -> Callable[[int], Pace]:
    """Return the awaitable of each confirmation; taskiq is installed only for its benchmark."""
    from taskiq_aio_pika import AioPikaBroker, Queue, QueueType  # noqa: PLC0415 - optional

    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    broker: Any = AioPikaBroker(url, task_queues=[Queue(name=QUEUE, type=QueueType.QUORUM, declare=True)])

    async def published(label: str) -> None:
        """Do nothing: no worker runs."""

    task = broker.task(published, queue_name=QUEUE)
    loop.run_until_complete(broker.startup())
    stack.callback(lambda: loop.run_until_complete(broker.shutdown()))

    async def send(count: int) -> Pace:
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(count):
            await task.kiq("published")
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        return Pace(count / seconds, worked / count * 1e6)

    return lambda count: loop.run_until_complete(send(count))


def _growth(url: str, count: int) -> float:
    """Return by how many megabytes the peak of a process grew with this many tasks."""
    declare_ours(url)
    command = [sys.executable, "-c", _MEMORY, url, str(_RAMP), str(count)]
    before, after = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return float(after - before)
