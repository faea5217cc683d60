"""Live figures of queues: polls workers and broker for some seconds without changing anything."""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth
from broker_app.broker.pauses import paused_queues
from broker_app.errors import BrokerError
from broker_app.fleet.inspect_workers import pool_name
from broker_app.tuning import proc_usage
from broker_app.tuning.advice import QueueLoad

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import amqp

    from broker_app.app import BrokerApp
    from broker_app.tuning.measurement import Usage
    from broker_app.tuning.proc_usage import UsageSample

ANSWER_SECONDS = 1.0
_PAUSE_SECONDS = 0.25


@dataclass
class WatchedWorker:
    """One observed worker.

    Attributes:
        queue: The only queue it consumes, by its name on the broker.
        pid: Its main process.
        pool: Celery's ``-P``.
        slots: Celery's ``-c``.
        started: Total of started tasks, at the start and the end.
        seconds: CPU seconds of its main process, at the start and the end.
        busy: Number of busy slots in each sample.
    """

    queue: str
    pid: int
    pool: str
    slots: int
    started: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    busy: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class WatchResult:
    """Result of an observation.

    Attributes:
        loads: Figures of each queue, in the order of the settings.
        missing: Descriptions of missing figures.
    """

    loads: tuple[QueueLoad, ...]
    missing: tuple[str, ...]


def watch(app: BrokerApp, queues: Iterable[str], seconds: float) -> WatchResult:
    """Observe some or all queues and return their figures.

    Args:
        app: The app whose broker and workers are polled.
        queues: Names of queues in the settings; empty for all.
        seconds: Duration of the observation.

    Raises:
        UnknownQueue: The settings do not declare a queue.
        BrokerError: The broker is unreachable.
    """
    table = app.settings.routing_table()
    names = {table.queue(name).broker_name: name for name in tuple(queues) or app.settings.queues}
    with connect(app) as connection:
        nodes, missing = _find_nodes(app, set(names))
        local = {name: node.pid for name, node in nodes.items() if _is_here(name)}
        depths: dict[str, list[int]] = {name: [] for name in names}
        _look(app, nodes)
        before, begin = _samples(local), time.monotonic()
        paused = _paused(app, missing)
        while True:
            _count(app, connection, nodes, depths)
            if time.monotonic() - begin >= seconds:
                break
            time.sleep(_PAUSE_SECONDS)
        _look(app, nodes)
        elapsed, after = time.monotonic() - begin, _samples(local)
    used = {pid: proc_usage.usage_between(pid, before[pid], after[pid], elapsed) for pid in before}
    loads = tuple(
        replace(
            _load(names[queue], [node for node in nodes.values() if node.queue == queue], depths[queue], elapsed),
            own_cores=_own_cores(here := [pid for name, pid in local.items() if nodes[name].queue == queue], used),
            host_busy_cores=max((used[pid].host_busy_cores for pid in here), default=None),
            is_paused=names[queue] in paused,
        )
        for queue in names
    )
    return WatchResult(loads, tuple(missing))


def local_nodes(app: BrokerApp, queue: str) -> list[WatchedWorker]:
    """Return the workers of this host that consume a queue and nothing else."""
    nodes, _ = _find_nodes(app, {app.settings.routing_table().queue(queue).broker_name})
    return [node for name, node in sorted(nodes.items()) if _is_here(name)]


def _is_here(name: str) -> bool:
    return name.partition("@")[2] == socket.gethostname()


def _find_nodes(app: BrokerApp, queues: set[str]) -> tuple[dict[str, WatchedWorker], list[str]]:
    """Return the workers that consume exactly one of the queues, and descriptions of missing figures."""
    consumed = _ask(app, "active_queues", None)
    stats = _ask(app, "stats", list(consumed))
    nodes, missing = {}, []
    for name, found in consumed.items():
        of_node = [queue["name"] for queue in found or ()]
        if not queues & set(of_node):
            continue
        if len(of_node) > 1 or name not in stats:
            missing.append(f"{name} is not counted: it consumes {len(of_node)} queues, or did not answer twice")
            continue
        pool = stats[name]["pool"]
        nodes[name] = WatchedWorker(
            of_node[0], stats[name]["pid"], pool_name(pool["implementation"]), pool["max-concurrency"]
        )
    remote = [name for name in nodes if not _is_here(name)]
    if remote:
        missing.append(f"how busy the hosts of {', '.join(sorted(remote))} are")
    return nodes, missing


def _ask(app: BrokerApp, question: str, names: list[str] | None) -> dict[str, Any]:
    if names is not None and not names:
        return {}
    limit = {"limit": len(names)} if names else {}
    replies = app.control.broadcast(question, destination=names, reply=True, timeout=ANSWER_SECONDS, **limit)
    answers = {name: answer for reply in replies or () for name, answer in reply.items()}
    return {n: answer for n, answer in answers.items() if not (isinstance(answer, dict) and "error" in answer)}


def _look(app: BrokerApp, nodes: Mapping[str, WatchedWorker]) -> None:
    """Record each node's total of started tasks and the CPU time of its main process."""
    for name, answer in _ask(app, "stats", list(nodes)).items():
        nodes[name].started.append(sum(answer["total"].values()))
        nodes[name].seconds.append(answer["rusage"]["utime"] + answer["rusage"]["stime"])


def _count(
    app: BrokerApp,
    connection: amqp.Connection,
    nodes: Mapping[str, WatchedWorker],
    depths: Mapping[str, list[int]],
) -> None:
    """Record the depth of each queue and the busy slots of each node."""
    for queue, seen in depths.items():
        seen.append(queue_depth(connection, queue) or 0)
    for name, answer in _ask(app, "active", list(nodes)).items():
        nodes[name].busy.append(len(answer))


def _samples(local: Mapping[str, int]) -> dict[int, UsageSample]:
    """Return the counters of this host's workers, child processes included, by pid."""
    return {pid: proc_usage.sample(pid) for pid in local.values()}


def _paused(app: BrokerApp, missing: list[str]) -> frozenset[str]:
    try:
        return paused_queues(app)
    except BrokerError as error:
        missing.append(f"which queues are paused: {error}")
        return frozenset()


def _own_cores(pids: Iterable[int], used: Mapping[int, Usage]) -> float | None:
    """Return the cores that workers use on this host, child processes included; None without local workers."""
    cores = [used[pid].cpu_cores for pid in pids]
    return sum(cores) if cores else None


def _load(queue: str, nodes: list[WatchedWorker], depths: list[int], elapsed: float) -> QueueLoad:
    whole = [node for node in nodes if len(node.started) > 1 and node.busy]
    return QueueLoad(
        queue=queue,
        nodes=len(whole),
        slots=sum(node.slots for node in whole),
        starts=sum(node.started[-1] - node.started[0] for node in whole) / elapsed,
        busy_slots=sum(statistics.fmean(node.busy) for node in whole),
        waiting=statistics.fmean(depths),
        growth=(depths[-1] - depths[0]) / elapsed,
        cpu_cores=max(((node.seconds[-1] - node.seconds[0]) / elapsed for node in whole), default=None),
        cores=proc_usage.cores(),
    )
