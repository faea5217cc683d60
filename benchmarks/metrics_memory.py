"""Memory of the metrics server while a million tasks are counted and scraped."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, shown
from benchmarks.metrics_scrape import NODES, QUEUES, TASKS, fill, large_app, serving
from benchmarks.metrics_worker import scrape
from benchmarks.report import Goal, Report
from broker_app.metrics.catalogue import TaskOutcome
from broker_app.queues.headers import DELAY_HEADER, PUBLISHED_AT_HEADER

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from broker_app.metrics.worker import NodeMetrics

GOAL_MB = 1.0
WARM_UP_SCRAPES = 50
STEPS = 100
_OUTCOMES = (*[TaskOutcome.SUCCEEDED] * 8, TaskOutcome.FAILED, TaskOutcome.RETRIED)


def run(bench: Bench) -> Report:
    """Count tasks in the files of a large host, scrape after each hundredth, and read the server's memory."""
    count = bench.pick(1_000_000, 200_000)
    with bench.virtual_host() as url, tempfile.TemporaryDirectory(dir=bench.folder) as name:
        folder = Path(name)
        app = large_app(folder, url, bench.broker.management.url, QUEUES)
        nodes = fill(app, TASKS, NODES)
        with serving(app, folder) as (address, pid):
            for _ in range(WARM_UP_SCRAPES):
                scrape(address)
            memory = [_megabytes(pid)]
            for step in range(STEPS):
                _count(nodes, count // STEPS)
                scrape(address)
                memory.append(_megabytes(pid))
                if not (step + 1) % (STEPS // 10):
                    bench.say(f"{(step + 1) * count // STEPS:,} tasks: {memory[-1]:.2f} MB")
    first, last = (Spread.of(part) for part in (memory[: STEPS // 4], memory[-STEPS // 4 :]))
    growth = Spread.of([last.median - first.median])
    return Report(
        title=f"resident memory of the server of the metrics over {count:,} tasks",
        columns=("tasks counted", "MB"),
        rows=tuple((f"{part * count // 4:,}", shown(memory[part * STEPS // 4])) for part in range(5)),
        goals=(Goal("more in the last quarter than in the first", growth, GOAL_MB, is_ceiling=True, unit=" MB"),),
        notes=(
            f"The tasks are counted here, as a worker does, in the files of {NODES} nodes: no message is sent. "
            f"The server was scraped {WARM_UP_SCRAPES} times before, and is {STEPS} times meanwhile (VmRSS)."
        ),
        samples={"MB": memory},
    )


def _count(nodes: list[NodeMetrics], count: int) -> None:
    """Count this many tasks from being received to their end."""
    queues = [f"queue-{number}" for number in range(QUEUES)]
    for number in range(count):
        now = time.time()
        queue, task = queues[number % QUEUES], f"shop.tasks.some_task_{number % TASKS}"
        node = nodes[number % QUEUES + QUEUES * (number // QUEUES % (NODES // QUEUES))]
        node.received(queue, task, is_redelivered=False)
        headers = {PUBLISHED_AT_HEADER: now - number % 100 / 10, DELAY_HEADER: number % 3 * 1.0}
        node.started(queue, headers, now - 0.1, now)
        node.finished(queue, task, _OUTCOMES[number % len(_OUTCOMES)], number % 50 / 100)


def _megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6
