"""What the fleets of this host do now: the processes, and what they answer."""

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
"""A silent worker that is younger is taken to be still starting."""


class NodeState(StrEnum):
    """How a node's process stands."""

    RUNNING = "running"
    STARTING = "starting"
    """Its process is there, is younger than half a minute, and has neither answered nor consumed yet."""
    STOPPING = "stopping"
    """It was told to end and finishes its tasks."""
    DEAD = "dead"
    """Its process is gone, its pid file is not: it was killed."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node.

    Attributes:
        node: Which.
        is_wanted: Whether the settings want it.
        state: How its process stands.
        pid: Of its main process; None if there is none.
        answer: What it answered over the broker; None if it did not.
        pool: As it answered, else as the settings want it; None if they do not.
        slots: Tasks at once; likewise.
        is_consuming: Whether it consumes its queue: by its sign of life, which a node that hangs does not give.
        is_paused: Whether it does not because its queue is paused.
        heard_seconds: How long ago it heard from the broker, heartbeats included; None if it gave no sign.
        log: Its log file, which need not be there.
        memory_bytes: Of its process and its pool's; None if it is not known.
        uptime_seconds: Since it started; None if it does not run.
        version: Of broker-app when it was started; None if it was not started here.
        note: What an operator should know of it; mostly empty.
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
        """Tasks that it has finished since its start; None if it did not say."""
        if self.answer is None or self.answer.active is None:
            return None
        return max(0, self.answer.begun - self.answer.active)


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """All nodes, and whether they are as the settings want them.

    Attributes:
        nodes: Those of the settings in their order, then those that run or died without being wanted.
        broker_problem: Why nobody could be asked; empty if the broker answers.
        scaled: The number of nodes in the settings, and the one that an operator asked for, by queue.
        resting: Queues that an operator stopped.
    """

    nodes: tuple[NodeStatus, ...]
    broker_problem: str
    scaled: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    resting: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all wanted nodes run and consume their queues, or are paused, and the broker could be asked."""
        return not self.broker_problem and all(
            (status.is_consuming or status.is_paused) and status.state is NodeState.RUNNING
            for status in self.nodes
            if status.is_wanted
        )


def fleet_status(
    app: BrokerApp, queues: Iterable[str] = (), *, answer_seconds: float = DEFAULT_ANSWER_SECONDS
) -> FleetStatus:
    """Return how the nodes of some queues, or of all, stand. Nothing is changed.

    Args:
        app: Whose settings and broker count.
        queues: As producers write them, also some that are gone from the settings; none for all.
        answer_seconds: How long to wait for a silent node in each of three rounds.

    Raises:
        UnknownQueue: The settings do not declare it, and no node of it runs.
        FleetError: The state folder cannot be read.
    """
    state = FleetState.of(app)
    names = check_queues(app, state, queues)
    wishes = Overrides.read(state.run)
    wanted = {node: fleet for fleet in wanted_fleets(app.settings, (), wishes.scaled) for node in fleet.nodes}
    nodes = [
        node for node in dict.fromkeys([*wanted, *known_nodes(app, state)]) if not names or node.queue in names
    ]
    running = state.workers()
    asked = {running[node.stem][0].node_name or node.name: node for node in nodes if node.stem in running}
    answers, problem = _ask(app, list(asked), answer_seconds)
    by_node = {asked[name]: answer for name, answer in answers.items()}
    memory = memory_bytes(workers[0].pid for workers in running.values())
    look = _HostSnapshot(state, running, memory, app.settings.heartbeat_seconds, hung_nodes(app, state, running))
    declared = {
        name: queue.fleet.nodes for name, queue in app.settings.queues.items() if not names or name in names
    }
    return FleetStatus(
        tuple(look.status(node, wanted.get(node), by_node.get(node)) for node in nodes),
        problem,
        {name: (count, wishes.scaled[name]) for name, count in declared.items() if name in wishes.scaled},
        tuple(name for name in declared if name in wishes.stopped),
    )


def unwanted_nodes(app: BrokerApp) -> tuple[Node, ...]:
    """Return the nodes that run though the settings do not want them: fewer nodes, or a queue that is gone."""
    state = FleetState.of(app)
    fleets = wanted_fleets(app.settings, (), Overrides.read(state.run).scaled)
    wanted = {node for fleet in fleets for node in fleet.nodes}
    running = state.workers()
    return tuple(node for stem in sorted(running) if (node := node_of(app.settings, stem)) not in wanted)


def _ask(app: BrokerApp, names: list[str], answer_seconds: float) -> tuple[dict[str, WorkerReply], str]:
    if not names:
        return {}, ""
    try:
        with connect(app):  # bounded, and with a reason, where asking would try again and again
            return ask_workers(app, names, timeout_seconds=answer_seconds, with_active=True), ""
    except (BrokerError, OperationalError, *app.connection_for_write().connection_errors) as error:
        return {}, error_text(error)


@dataclass(frozen=True, slots=True)
class _HostSnapshot:
    """What this host shows of its nodes."""

    state: FleetState
    running: Mapping[str, tuple[NodeProcess, ...]]
    memory: Mapping[int, int]
    heartbeat_seconds: float
    hung: Mapping[str, Hang]

    def status(self, node: Node, fleet: Fleet | None, answer: WorkerReply | None) -> NodeStatus:
        workers = self.running.get(node.stem, ())
        pids = {worker.pid for worker in workers}
        if answer is not None and answer.pid not in pids:
            answer = None  # a worker from elsewhere has its name
        sign = Heartbeat.read(self.state.sign_file(node.stem))
        if sign is not None and sign.pid not in pids:
            sign = None
        known = answer or fleet
        is_paused = self._is_paused(fleet, sign)
        is_consuming = self._is_consuming(fleet, answer, sign)
        record, pid = LaunchRecord.read(self.state.record_file(node.stem)), workers[0].pid if workers else None
        return NodeStatus(
            node=node,
            is_wanted=fleet is not None,
            state=self._node_state(node, workers, is_up=answer is not None or _was_up(sign)),
            pid=pid,
            answer=answer,
            pool=known.pool if known else None,
            slots=answer.slots if answer else fleet.concurrency if fleet else None,
            is_consuming=is_consuming,
            is_paused=is_paused,
            heard_seconds=sign.heard_seconds if sign else None,
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
            return "the machine was restarted since it was started"
        if pid is not None and record.version != installed_version():
            return f"it runs {record.version}, {installed_version()} is installed: `broker-app fleet reload`"
        return ""

    def _is_consuming(self, fleet: Fleet | None, answer: WorkerReply | None, sign: Heartbeat | None) -> bool:
        if sign is not None:
            is_fresh = sign.is_fresh(self.heartbeat_seconds)
            return is_fresh and bool(sign.queues if fleet is None else fleet.broker_queue in sign.queues)
        return answer is not None and (fleet is None or fleet.broker_queue in answer.queues)

    def _is_paused(self, fleet: Fleet | None, sign: Heartbeat | None) -> bool:
        return fleet is not None and sign is not None and fleet.broker_queue in sign.paused

    def _node_state(self, node: Node, workers: tuple[NodeProcess, ...], *, is_up: bool) -> NodeState:
        if not workers:
            return NodeState.DEAD if node.stem in self.state.recorded() else NodeState.STOPPED
        if self.state.is_stopping(node.stem, workers[0].pid):
            return NodeState.STOPPING
        if not is_up and self.state.seconds_since_start(node.stem) < _YOUNG_SECONDS:
            return NodeState.STARTING
        return NodeState.RUNNING


def _was_up(sign: Heartbeat | None) -> bool:
    """Return whether a node has consumed, or was kept from it by a pause: if it hangs now, it is not starting."""
    return sign is not None and bool(sign.queues or sign.paused)
