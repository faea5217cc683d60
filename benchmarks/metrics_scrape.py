"""The time of a scrape of a large host, and its growth with the number of series."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Spread, percentile, ratio, shown, shown_spread
from benchmarks.metrics_worker import cpu_seconds, free_port, running, scrape, scraped
from benchmarks.report import Goal, Report
from benchmarks.rounds import alternate
from broker_app import BrokerApp
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.metrics import catalogue
from broker_app.metrics.catalogue import TaskOutcome
from broker_app.metrics.recorder import Recorder
from broker_app.metrics.registry import folder_of, node_stem
from broker_app.metrics.worker import NodeMetrics
from broker_app.queues.dead_letters import DeadReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench

QUEUES, TASKS, NODES = 10, 100, 20
SCALES = (0.5, 1, 2, 4)
SCRAPES = 20
GOAL_MILLISECONDS, GOAL_MB = 100.0, 1.0
GOAL_GROWTH = 1.5
"""Of a series' time at four times as many; a square would be 4, and what does not fit the caches is some of it."""
_OUTCOMES = (TaskOutcome.SUCCEEDED, TaskOutcome.FAILED, TaskOutcome.RETRIED)
_GAUGES = (
    *(catalogue.WORKER_START, catalogue.SLOTS, catalogue.SLOTS_BUSY, catalogue.RESERVED, catalogue.PREFETCHED),
    *(catalogue.PREFETCH_LIMIT, catalogue.WORKER_UP, catalogue.LAST_CONSUMED_AGE),
)


@dataclass(frozen=True, slots=True)
class Scrapes:
    """Some answers, one after the other.

    Attributes:
        milliseconds: Of each, from the request to its last byte.
        worked: Processor time of the server for each, in milliseconds; it is counted in steps of ten.
        megabytes: Of the last.
        series: In it.
    """

    milliseconds: tuple[float, ...]
    worked: float
    megabytes: float
    series: int


def run(bench: Bench) -> Report:
    """Make the files of hosts of several sizes, serve each, and scrape them in turn."""
    rounds = bench.pick(7, 3)
    with ExitStack() as stack:
        hosts = {scale: stack.enter_context(_host(bench, scale)) for scale in SCALES}
        found = alternate(
            {str(scale): partial(_scrape, *place) for scale, place in hosts.items()}, rounds, lambda _: None
        )
    times = {scale: [time for one in found[str(scale)] for time in one.milliseconds] for scale in SCALES}
    each = {scale: [one.worked / one.series for one in found[str(scale)]] for scale in SCALES}
    sizes = [one.megabytes for one in found["1"]]
    return Report(
        title=f"a scrape of the server of the metrics, {rounds * SCRAPES} of each",
        columns=("queues, tasks, nodes", "series", "MB", "ms", "ms at p95", "processor ms"),
        rows=tuple(_row(scale, found[str(scale)]) for scale in SCALES),
        goals=(
            Goal("the second line", Spread.of(times[1]), GOAL_MILLISECONDS, is_ceiling=True, unit=" ms"),
            Goal("its size", Spread.of(sizes), GOAL_MB, is_ceiling=True, unit=" MB"),
            Goal(
                "processor time of a series, four times as many",
                ratio(each[4], each[1]),
                GOAL_GROWTH,
                is_ceiling=True,
            ),
        ),
        notes=(
            "The files are made here: each queue has ten tasks and two nodes, each node has counted every task "
            "of its queue with three outcomes, and a producer has published all. By HTTP, with the broker's side."
        ),
        samples={f"{scale}: ms": values for scale, values in times.items()},
    )


def _row(scale: float, scrapes: list[Scrapes]) -> tuple[str, ...]:
    milliseconds = [time for one in scrapes for time in one.milliseconds]
    return (
        ", ".join(str(int(number * scale)) for number in (QUEUES, TASKS, NODES)),
        f"{scrapes[-1].series:,}",
        shown(scrapes[-1].megabytes),
        shown_spread(Spread.of(milliseconds)),
        shown(percentile(milliseconds, 95)),
        shown_spread(Spread.of([one.worked for one in scrapes])),
    )


def _scrape(url: str, pid: int) -> Scrapes:
    before, milliseconds = cpu_seconds(pid), []
    for _ in range(SCRAPES):
        started = time.perf_counter()
        body = scrape(url)
        milliseconds.append((time.perf_counter() - started) * 1e3)
    worked = (cpu_seconds(pid) - before) / SCRAPES * 1e3
    series = sum(not line.startswith(b"#") for line in body.splitlines())
    return Scrapes(tuple(milliseconds), worked, len(body) / 1e6, series)


@contextmanager
def _host(bench: Bench, scale: float) -> Iterator[tuple[str, int]]:
    """Serve a host of a size for the length of a block, and hand out where, and the server's process."""
    with (
        bench.virtual_host() as url,
        tempfile.TemporaryDirectory(dir=bench.folder) as folder,
    ):
        app = large_app(Path(folder), url, bench.broker.management.url, int(QUEUES * scale))
        with connect(app) as connection:
            declare_topology(connection, wanted_topology(app.settings))
        fill(app, int(TASKS * scale), int(NODES * scale))
        with serving(app, Path(folder)) as place:
            yield place


def large_app(folder: Path, url: str, management_url: str, queues: int) -> BrokerApp:
    """Return an app with so many queues; its settings are in the folder."""
    lines = [
        f'state_dir = "{folder / "state"}"',
        f'management_url = "{management_url}"',
        'default_queue = "queue-0"',
    ]
    lines += [f"[queues.queue-{number}]" for number in range(queues)]
    (folder / "broker.toml").write_text("\n".join(lines), encoding="utf-8")
    return BrokerApp("large", broker=url, config=folder / "broker.toml", set_as_current=False)


def fill(app: BrokerApp, tasks: int, nodes: int) -> list[NodeMetrics]:
    """Count every task once in every node of its queue, and in a producer; the files are those of this process."""
    folder, table = folder_of(app), app.settings.routing_table()
    queues = list(app.settings.queues)
    producer = Recorder(folder, "producer", max_tasks=tasks)
    made = []
    for number in range(nodes):
        queue, name = queues[number % len(queues)], f"node-{number}@host"
        node = NodeMetrics(Recorder(folder, node_stem(name), name, tasks), table)
        node.begin((queue,))
        for metric in _GAUGES:
            node.recorder.set(metric, (queue,), time.time())
        for reason in DeadReason:
            node.buried(queue, reason.value)
        made.append(node)
    for number in range(tasks):
        queue, task = queues[number % len(queues)], f"shop.tasks.some_task_{number}"
        producer.add(catalogue.PUBLISHED, (queue, task))
        producer.observe(catalogue.CONFIRM_SECONDS, (queue,), 0.003)
        for node in made[number % len(queues) :: len(queues)]:
            node.received(queue, task, is_redelivered=True)
            for outcome in _OUTCOMES:
                node.finished(queue, task, outcome, 0.1)
    return made


@contextmanager
def serving(app: BrokerApp, folder: Path) -> Iterator[tuple[str, int]]:
    """Run ``broker-app metrics serve`` for an app of `large_app`, and hand out where, and its process."""
    port = free_port()
    (folder / "large.py").write_text(
        "from broker_app import BrokerApp\napp = BrokerApp('large')\n", encoding="utf-8"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_APP_", "CELERY_"))}
    environment = kept | {
        "CELERY_BROKER_URL": app.conf.broker_url,
        "BROKER_APP_CONFIG": str(folder / "broker.toml"),
    }
    command = ["-m", "celery", "-A", "large", "metrics", "serve", "--port", str(port)]
    with (
        running(command, environment | {"PYTHONPATH": str(folder)}, folder / "server.log") as process,
        scraped(port, 3_600.0) as url,
    ):
        yield url, process.pid
