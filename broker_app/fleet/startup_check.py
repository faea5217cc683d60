"""Startup check: follows started nodes until each replies with its pid and consumes its queue."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from broker_app.fleet.hanging import hung_nodes
from broker_app.fleet.inspect_workers import WorkerReply, ask_workers
from broker_app.wire.errors import error_text
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from broker_app.app import BrokerApp
    from broker_app.fleet.multi import Launch
    from broker_app.fleet.nodes import Fleet, Node
    from broker_app.fleet.processes import NodeProcess
    from broker_app.fleet.state import FleetState

logger = logging.getLogger(__name__)

LOG_LINES = 10
"""Number of log lines to show of a node that failed to start."""

ASK_SECONDS = 1.0
_POLL_SECONDS = 0.2


class StartOutcome(StrEnum):
    """The start outcome of a wanted node."""

    STARTED = "started"
    ALREADY_RUNNING = "already running"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StartedNode:
    """The start outcome of one node.

    Attributes:
        node: The node.
        outcome: The outcome.
        log: Its log file; it may not exist.
        pid: Pid of its main process; None if it does not run.
        slots: Maximum number of concurrent tasks; None if it is not up.
        reason: Why it failed; empty if it did not.
        log_lines: If it failed, the last log lines since the start.
    """

    node: Node
    outcome: StartOutcome
    log: Path
    pid: int | None = None
    slots: int | None = None
    reason: str = ""
    log_lines: tuple[str, ...] = ()


class StartupWatch:
    """Follows the wanted nodes until each is up or has failed."""

    def __init__(
        self,
        app: BrokerApp,
        state: FleetState,
        fleets: Iterable[Fleet],
        running: Mapping[str, tuple[NodeProcess, ...]],
    ) -> None:
        self._app = app
        self._state = state
        self._fleets = {node: fleet for fleet in fleets for node in fleet.nodes}
        self._were_running = frozenset(running)
        self._log_start_bytes = {node: state.log_bytes(node.stem) for node in self._fleets}
        self._done: dict[Node, StartedNode] = {}
        self._old_pids = {node: self._heartbeat_pid(node) for node in self._fleets}

    def launched(self, launches: Mapping[str, Launch]) -> None:
        """Record the launches: fail the nodes that did not detach, and those that are still stopping."""
        running = self._state.workers()
        for node, fleet in self._fleets.items():
            first = next(iter(running.get(node.stem, ())), None)
            launch = launches.get(fleet.queue)
            if first is None and launch is not None and not launch.is_ok:
                self._fail(node, None, "it could not be started", launch.lines)
            elif first is not None and self._state.is_stopping(node.stem, first.pid):
                self._fail(node, first.pid, "it is stopping and finishing its tasks; use `fleet restart`")

    def wait(self, seconds: float) -> tuple[StartedNode, ...]:
        """Wait until all outcomes are known or the time is up, and return them in the order of the settings."""
        deadline = time.monotonic() + seconds
        while len(outcomes := self.poll(seconds, is_last=time.monotonic() >= deadline)) < len(self._fleets):
            time.sleep(_POLL_SECONDS)
        return outcomes

    def poll(self, seconds: float, *, is_last: bool) -> tuple[StartedNode, ...]:
        """Look once, and return the outcomes known so far, in the order of the settings.

        Args:
            seconds: How long the nodes may take, for the message.
            is_last: Whether that time is up, so that nodes that are not up have failed.
        """
        answers = self._look()
        running = self._state.workers() if is_last else {}
        for node in self._pending() if is_last else ():
            pid = running[node.stem][0].pid if node.stem in running else None
            self._fail(node, pid, self._complaint(node, answers.get(node), seconds))
        return tuple(self._done[node] for node in self._fleets if node in self._done)

    def _pending(self) -> list[Node]:
        return [node for node in self._fleets if node not in self._done]

    def _look(self) -> dict[Node, WorkerReply]:
        """Record the nodes that have exited or are up; return the replies of the others."""
        running = self._state.workers()
        for node in self._pending():
            if node.stem not in running:
                self._fail(node, None, self._exited(node))
        if not self._pending():
            return {}
        names = {running[node.stem][0].node_name or node.name: node for node in self._pending()}
        answers = {names[name]: answer for name, answer in self._ask(list(names)).items()}
        for node, answer in answers.items():
            pids = {process.pid for process in running[node.stem]}
            queue = self._fleets[node].broker_queue
            if answer.pid in pids and queue in answer.queues and self._is_consuming(node, answer.pid):
                self._succeed(node, answer.pid, answer.slots)
        for node in self._pending():
            if node.stem in self._were_running and self._fleets[node].pool == "solo":
                # it cannot reply while it runs a task, which may take long
                self._succeed(node, running[node.stem][0].pid, self._fleets[node].concurrency)
        return answers

    def _exited(self, node: Node) -> str:
        """Return when a node exited: its heartbeat file shows whether it had consumed before."""
        if node.stem in self._were_running:
            return "it ran already, and exited"
        heartbeat, queue = Heartbeat.read(self._state.sign_file(node.stem)), self._fleets[node].broker_queue
        if heartbeat is None or heartbeat.pid == self._old_pids[node] or queue not in heartbeat.queues:
            return "it exited during startup"
        return f"it consumed {queue}, and exited before it answered"

    def _heartbeat_pid(self, node: Node) -> int | None:
        heartbeat = Heartbeat.read(self._state.sign_file(node.stem))
        return None if heartbeat is None else heartbeat.pid

    def _ask(self, names: list[str]) -> dict[str, WorkerReply]:
        try:
            return ask_workers(self._app, names, timeout_seconds=ASK_SECONDS)
        except (OperationalError, *self._app.connection_for_write().connection_errors) as error:
            logger.warning("failed to query the workers over the broker: %s", error_text(error))
            return {}

    def _is_consuming(self, node: Node, pid: int) -> bool:
        """Return whether the broker has the node's consumer, or the queue is paused.

        A solo node may be running a task before it can report this.
        """
        heartbeat, queue = Heartbeat.read(self._state.sign_file(node.stem)), self._fleets[node].broker_queue
        has_consumer = (
            heartbeat is not None and heartbeat.pid == pid and queue in (*heartbeat.queues, *heartbeat.paused)
        )
        return has_consumer or self._fleets[node].pool == "solo"

    def _succeed(self, node: Node, pid: int, slots: int) -> None:
        outcome = StartOutcome.ALREADY_RUNNING if node.stem in self._were_running else StartOutcome.STARTED
        if outcome is StartOutcome.STARTED:
            self._state.close_files([node.stem])
        self._done[node] = StartedNode(node, outcome, self._state.log_file(node.stem), pid, slots)

    def _fail(self, node: Node, pid: int | None, reason: str, lines: tuple[str, ...] = ()) -> None:
        start_bytes = self._log_start_bytes[node]
        shown = lines[-LOG_LINES:] or self._state.log_tail(node.stem, start_bytes, LOG_LINES)
        log = self._state.log_file(node.stem)
        self._done[node] = StartedNode(node, StartOutcome.FAILED, log, pid, reason=reason, log_lines=shown)

    def _complaint(self, node: Node, answer: WorkerReply | None, seconds: float) -> str:
        if answer is None:
            hang = hung_nodes(self._app, self._state, self._state.workers()).get(node.stem)
            return f"it {hang.words}; use `fleet restart`" if hang else f"it did not answer within {seconds:g} s"
        queue = self._fleets[node].broker_queue
        if queue not in answer.queues:
            return f"it consumes {', '.join(answer.queues) or 'nothing'}, not {queue}"
        if answer.pid in {process.pid for process in self._state.workers().get(node.stem, ())}:
            return f"it answers, but the broker has no consumer of it on {queue}"
        return f"another worker (pid {answer.pid}) uses its name"
