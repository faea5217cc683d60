"""Fleet status: the nodes' processes on this host, and their replies over the broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from broker_app.broker.access import connect
from broker_app.errors import BrokerError
from broker_app.fleet.hanging import hung_nodes
from broker_app.fleet.inspect_workers import WorkerReply, ask_workers
from broker_app.fleet.launch_record import LaunchRecord, boot_id, installed_version
from broker_app.fleet.memory import memory_bytes
from broker_app.fleet.nodes import Fleet, Node, node_of, wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.state import FleetState
from broker_app.fleet.stop import check_queues, known_nodes
from broker_app.wire.errors import error_text
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from broker_app.app import BrokerApp
    from broker_app.fleet.hanging import Hang
    from broker_app.fleet.processes import NodeProcess

DEFAULT_ANSWER_SECONDS = 2.0

_YOUNG_SECONDS = 30.0
"""A silent worker younger than this counts as starting."""


class NodeState(StrEnum):
    """The state of a node's process."""

    RUNNING = "running"
    STARTING = "starting"
    """The process is younger than half a minute, and has neither replied nor consumed yet."""
    STOPPING = "stopping"
    """The node is shutting down and finishing its tasks."""
    DEAD = "dead"
    """The process is gone but its pid file remains: it was killed."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The status of one node.

    Attributes:
        node: The node.
        is_wanted: Whether the settings ask for it.
        state: State of its process.
        pid: Pid of its main process; None if it does not run.
        answer: Its reply over the broker; None if it did not reply.
        pool: Pool from its reply, else from the settings; None if in neither.
        slots: Maximum number of concurrent tasks, from the same source as the pool.
        is_consuming: Whether it consumes its queue, from its heartbeat file; a hung node does not update it.
        is_paused: Whether its queue is paused.
        heard_seconds: Time since it last heard from the broker, AMQP heartbeats included; None if unknown.
        log: Its log file; it may not exist.
        memory_bytes: Memory of its main process and pool; None if unknown.
        uptime_seconds: Time since its start; None if it does not run.
        version: Version of broker-app it was started with; None if not started here.
        note: A hint for operators; usually empty.
    """

    node: Node
    is_wanted: bool
    state: NodeState
    pid: int | None
    answer: WorkerReply | None
    pool: str | None
    slots: int | None
    is_consuming: bool
    is_paused: bool
    heard_seconds: float | None
    log: Path
    memory_bytes: int | None
    uptime_seconds: float | None
    version: str | None
    note: str

    @property
    def done(self) -> int | None:
        """Number of tasks finished since its start; None if unknown."""
        if self.answer is None or self.answer.active is None:
            return None
        return max(0, self.answer.begun - self.answer.active)


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The status of all nodes.

    Attributes:
        nodes: The wanted nodes in the order of the settings, then unwanted ones that run or died.
        broker_problem: Why the workers could not be queried; empty if the broker answers.
        scaled: By queue, the number of nodes in the settings and the number that an operator set.
        resting: Queues that an operator stopped.
    """

    nodes: tuple[NodeStatus, ...]
    broker_problem: str
    scaled: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    resting: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """True if the broker answers and every wanted node runs and consumes its queue, or is paused."""
        return not self.broker_problem and all(
            (status.is_consuming or status.is_paused) and status.state is NodeState.RUNNING
            for status in self.nodes
            if status.is_wanted
        )


def fleet_status(
    app: BrokerApp, queues: Iterable[str] = (), *, answer_seconds: float = DEFAULT_ANSWER_SECONDS
) -> FleetStatus:
    """Return the status of the nodes of some queues, or of all. Read-only.

    Args:
        app: The app whose settings and broker are used.
        queues: Names as producers write them, including queues no longer in the settings; empty for all.
        answer_seconds: How long to wait for a silent node, in each of three rounds.

    Raises:
        UnknownQueue: The settings do not declare the queue, and no node of it runs.
        FleetError: The state folder is unreadable.
    """
    state = FleetState.of(app)
    names = check_queues(app, state, queues)
    overrides = Overrides.read(state.run)
    wanted = {node: fleet for fleet in wanted_fleets(app.settings, (), overrides.scaled) for node in fleet.nodes}
    nodes = [
        node for node in dict.fromkeys([*wanted, *known_nodes(app, state)]) if not names or node.queue in names
    ]
    running = state.workers()
    asked = {running[node.stem][0].node_name or node.name: node for node in nodes if node.stem in running}
    answers, problem = _ask(app, list(asked), answer_seconds)
    by_node = {asked[name]: answer for name, answer in answers.items()}
    memory = memory_bytes(workers[0].pid for workers in running.values())
    snapshot = _HostSnapshot(
        state, running, memory, app.settings.heartbeat_seconds, hung_nodes(app, state, running)
    )
    declared = {
        name: queue.fleet.nodes for name, queue in app.settings.queues.items() if not names or name in names
    }
    return FleetStatus(
        tuple(snapshot.status(node, wanted.get(node), by_node.get(node)) for node in nodes),
        problem,
        {name: (count, overrides.scaled[name]) for name, count in declared.items() if name in overrides.scaled},
        tuple(name for name in declared if name in overrides.stopped),
    )


def unwanted_nodes(app: BrokerApp) -> tuple[Node, ...]:
    """Return the running nodes that the settings do not ask for: surplus nodes, or nodes of removed queues."""
    state = FleetState.of(app)
    fleets = wanted_fleets(app.settings, (), Overrides.read(state.run).scaled)
    wanted = {node for fleet in fleets for node in fleet.nodes}
    running = state.workers()
    return tuple(node for stem in sorted(running) if (node := node_of(app.settings, stem)) not in wanted)


def _ask(app: BrokerApp, names: list[str], answer_seconds: float) -> tuple[dict[str, WorkerReply], str]:
    if not names:
        return {}, ""
    try:
        with connect(app):  # fails in bounded time with a reason, where a broadcast would retry
            return ask_workers(app, names, timeout_seconds=answer_seconds, with_active=True), ""
    except (BrokerError, OperationalError, *app.connection_for_write().connection_errors) as error:
        return {}, error_text(error)


@dataclass(frozen=True, slots=True)
class _HostSnapshot:
    """The local state of this host's nodes at one moment."""

    state: FleetState
    running: Mapping[str, tuple[NodeProcess, ...]]
    memory: Mapping[int, int]
    heartbeat_seconds: float
    hung: Mapping[str, Hang]

    def status(self, node: Node, fleet: Fleet | None, answer: WorkerReply | None) -> NodeStatus:
        workers = self.running.get(node.stem, ())
        pids = {worker.pid for worker in workers}
        if answer is not None and answer.pid not in pids:
            answer = None  # a worker elsewhere uses its name
        heartbeat = Heartbeat.read(self.state.sign_file(node.stem))
        if heartbeat is not None and heartbeat.pid not in pids:
            heartbeat = None
        known = answer or fleet
        is_paused = self._is_paused(fleet, heartbeat)
        is_consuming = self._is_consuming(fleet, answer, heartbeat)
        record, pid = LaunchRecord.read(self.state.record_file(node.stem)), workers[0].pid if workers else None
        return NodeStatus(
            node=node,
            is_wanted=fleet is not None,
            state=self._node_state(node, workers, is_up=answer is not None or _was_up(heartbeat)),
            pid=pid,
            answer=answer,
            pool=known.pool if known else None,
            slots=answer.slots if answer else fleet.concurrency if fleet else None,
            is_consuming=is_consuming,
            is_paused=is_paused,
            heard_seconds=heartbeat.heard_seconds if heartbeat else None,
            log=self.state.log_file(node.stem),
            memory_bytes=self.memory.get(pid) if pid else None,
            uptime_seconds=self.state.seconds_since_start(node.stem) if pid else None,
            version=record.version if record and pid else None,
            note=self._hang_note(node) or self._note(node, pid, record),
        )

    def _hang_note(self, node: Node) -> str:
        hang = self.hung.get(node.stem)
        return "" if hang is None else f"{hang.words}: `broker-app fleet restart {node.queue}`"

    def _note(self, node: Node, pid: int | None, record: LaunchRecord | None) -> str:
        if record is None:
            return ""
        if pid is None and node.stem in self.state.recorded() and record.boot != boot_id():
            return "the machine has restarted since the node was started"
        if pid is not None and record.version != installed_version():
            return f"it runs {record.version}, {installed_version()} is installed: `broker-app fleet reload`"
        return ""

    def _is_consuming(self, fleet: Fleet | None, answer: WorkerReply | None, heartbeat: Heartbeat | None) -> bool:
        if heartbeat is not None:
            is_fresh = heartbeat.is_fresh(self.heartbeat_seconds)
            return is_fresh and bool(heartbeat.queues if fleet is None else fleet.broker_queue in heartbeat.queues)
        return answer is not None and (fleet is None or fleet.broker_queue in answer.queues)

    def _is_paused(self, fleet: Fleet | None, heartbeat: Heartbeat | None) -> bool:
        return fleet is not None and heartbeat is not None and fleet.broker_queue in heartbeat.paused

    def _node_state(self, node: Node, workers: tuple[NodeProcess, ...], *, is_up: bool) -> NodeState:
        if not workers:
            return NodeState.DEAD if node.stem in self.state.recorded() else NodeState.STOPPED
        if self.state.is_stopping(node.stem, workers[0].pid):
            return NodeState.STOPPING
        if not is_up and self.state.seconds_since_start(node.stem) < _YOUNG_SECONDS:
            return NodeState.STARTING
        return NodeState.RUNNING


def _was_up(heartbeat: Heartbeat | None) -> bool:
    """Return whether a node has consumed or been paused before: if it is silent now, it is not starting."""
    return heartbeat is not None and bool(heartbeat.queues or heartbeat.paused)
