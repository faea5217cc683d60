"""Stopping fleets: warm shutdown of all running nodes, wanted or not, with a timeout."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING

from broker_app.errors import FleetError, UnknownQueue
from broker_app.fleet.hanging import Hang, HangWatch, hung_nodes
from broker_app.fleet.nodes import Node, node_of
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.processes import kill, terminate
from broker_app.fleet.state import FleetState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.processes import NodeProcess

DEFAULT_STOP_SECONDS = 60.0
STOP_GRACE_SECONDS = 15.0
"""Extra time for exiting after the fleet's ``drain_seconds``, for busy machines."""

_POLL_SECONDS = 0.2
_KILL_SECONDS = 10.0
"""A killed process disappears at once, unless it is stuck in uninterruptible I/O."""


logger = logging.getLogger(__name__)


class StopOutcome(StrEnum):
    """The stop outcome of a node."""

    STOPPING = "stopping"
    STOPPED = "stopped"
    KILLED = "killed"
    HUNG = "hung, killed"
    WAS_DEAD = "was dead"


@dataclass(frozen=True, slots=True)
class StoppedNode:
    """The stop outcome of one node.

    Attributes:
        node: The node.
        outcome: The outcome.
        pid: Pid of its main process; None if it was dead.
        hang: The hang, if it still runs and is hung.
    """

    node: Node
    outcome: StopOutcome
    pid: int | None
    hang: Hang | None = None


def stop_fleets(
    app: BrokerApp,
    queues: Iterable[str] = (),
    *,
    wait_seconds: float | None = DEFAULT_STOP_SECONDS,
    is_kill_allowed: bool = False,
    is_supervisor: bool = False,
) -> tuple[StoppedNode, ...]:
    """Tell nodes to finish their tasks and exit, including nodes that are no longer in the settings.

    Supervisors do not restart them until the queue is started again.

    Args:
        app: The app whose settings apply. No broker connection is needed.
        queues: Names as producers write them, including queues no longer in the settings; empty for all.
        wait_seconds: How long to wait for them to exit; None returns at once.
        is_kill_allowed: Whether to kill nodes that still run then; their tasks return to the queue.
        is_supervisor: Whether a supervisor is shutting down; its queues are then not marked as stopped.

    Returns:
        One outcome per node that ran or had left a pid file.

    Raises:
        UnknownQueue: The settings do not declare it, and no node of it runs. Nothing was stopped.
        FleetError: The state folder is unusable, another fleet command is running, or nodes still run after
            ``wait_seconds``; the message names them and their pids.
    """
    state = FleetState.of(app)
    with state.lock(is_supervisor=is_supervisor) if state.exists() else nullcontext():
        names = check_queues(app, state, tuple(queues))
        if state.exists() and not is_supervisor:
            _mark_stopped(
                state, names or {*app.settings.queues, *(node.queue for node in known_nodes(app, state))}
            )
        stopper = Stopper(app, state, lambda node: not names or node.queue in names, ends_hung=is_supervisor)
        if wait_seconds is None:
            stopper.tell()
        else:
            stopper.end(wait_seconds, is_kill_allowed=is_kill_allowed)
        outcomes = stopper.outcomes()
    if wait_seconds is not None:
        check_gone(outcomes, wait_seconds)
    return outcomes


def patience_seconds(app: BrokerApp, queues: Iterable[str] = ()) -> float:
    """Return how long to wait for nodes to exit: `DEFAULT_STOP_SECONDS`, or more if a fleet drains longer.

    Args:
        app: The app whose settings apply.
        queues: Names as producers write them; empty for all. Queues no longer in the settings are ignored.
    """
    names = {queue.removeprefix(app.settings.prefix) for queue in queues}
    drains = [
        queue.fleet.drain_seconds for name, queue in app.settings.queues.items() if not names or name in names
    ]
    return max([DEFAULT_STOP_SECONDS, *(seconds + STOP_GRACE_SECONDS for seconds in drains)])


def known_nodes(app: BrokerApp, state: FleetState) -> tuple[Node, ...]:
    """Return all nodes that run or have left a pid file."""
    stems = sorted({*state.recorded(), *state.workers()})
    return tuple(node_of(app.settings, stem) for stem in stems)


def check_queues(app: BrokerApp, state: FleetState, queues: Iterable[str]) -> frozenset[str]:
    """Return the queues' names without the prefix; also accept a queue that only a node on this host consumes.

    Raises:
        UnknownQueue: The queue is neither in the settings nor used by a node.
    """
    table = app.settings.routing_table()
    left_over = {node.queue for node in known_nodes(app, state)}
    names = set()
    for queue in queues:
        try:
            names.add(table.queue(queue).name)
        except UnknownQueue:
            if queue not in left_over:
                raise
            names.add(queue)
    return frozenset(names)


def _mark_stopped(state: FleetState, queues: Iterable[str]) -> None:
    """Mark queues as stopped for supervisors; a full disk must not prevent stopping the nodes."""
    try:
        Overrides.read(state.run).stop(queues).write(state.run)
    except FleetError as error:
        logger.warning("a supervisor may restart the nodes: %s", error)


class Stopper:
    """Stops nodes and follows their shutdown, including nodes that were still starting.

    Args:
        app: The app whose settings apply.
        state: Location of the nodes' files.
        is_selected: Selects the nodes.
        ends_hung: Whether to kill hung nodes at once, as they would never finish their tasks.
    """

    def __init__(
        self, app: BrokerApp, state: FleetState, is_selected: Callable[[Node], bool], *, ends_hung: bool = False
    ) -> None:
        self._app = app
        self._state = state
        self._is_selected = is_selected
        self._ends_hung = ends_hung
        self._hangs = HangWatch()
        self._hung: set[Node] = set()
        self._outcomes: dict[Node, StoppedNode] = {}
        self._signalled: set[int] = set()
        for node in known_nodes(app, state):
            if is_selected(node):
                self._outcomes[node] = StoppedNode(node, StopOutcome.WAS_DEAD, None)

    def outcomes(self) -> tuple[StoppedNode, ...]:
        """Return the outcome of each node."""
        return tuple(self._outcomes.values())

    def tell(self) -> list[Node]:
        """Send SIGTERM once to each worker, clean up after nodes that are gone, and return those that run."""
        running = self._running()
        for node, workers in running.items():
            for worker in workers:
                if worker.pid not in self._signalled:
                    self._signalled.add(worker.pid)
                    terminate(worker.pid)
                    self._state.mark_stopping(node.stem, worker.pid)
            self._outcomes[node] = StoppedNode(node, StopOutcome.STOPPING, workers[0].pid)
        self._look_for_hung(running)
        for node in self._outcomes.keys() - running.keys():
            self._gone(node, StopOutcome.HUNG if node in self._hung else StopOutcome.STOPPED)
        return list(running)

    def end(self, seconds: float, *, is_kill_allowed: bool) -> bool:
        """Stop all nodes, kill them after this time if allowed, and return whether they are gone."""
        is_gone = self.wait(seconds)
        if not is_gone and is_kill_allowed:
            self.kill()
            is_gone = not self._running()
        return is_gone

    def wait(self, seconds: float) -> bool:
        """Stop all nodes, and return whether they are gone within this time."""
        deadline = time.monotonic() + seconds
        while self.tell():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def kill(self) -> None:
        """Kill the nodes that still run, and wait until they are gone."""
        deadline = time.monotonic() + _KILL_SECONDS
        left = self.tell()
        while (running := self._running()) and time.monotonic() < deadline:
            for worker in chain.from_iterable(running.values()):
                kill(worker.pid)
            time.sleep(_POLL_SECONDS)
        for node in set(left) - running.keys():
            self._gone(node, StopOutcome.KILLED)

    def _look_for_hung(self, running: Mapping[Node, tuple[NodeProcess, ...]]) -> None:
        """Record which nodes hang, and with ``ends_hung`` kill the confirmed ones."""
        hung = hung_nodes(self._app, self._state, {node.stem: workers for node, workers in running.items()})
        for hang in hung.values():
            self._outcomes[hang.node] = replace(self._outcomes[hang.node], hang=hang)
        if not self._ends_hung:
            return
        for hang in self._hangs.confirmed(hung.values(), time.monotonic()):
            logger.warning("%s; killing it", hang)
            for worker in running[hang.node]:
                kill(worker.pid)
            self._hung.add(hang.node)

    def _running(self) -> dict[Node, tuple[NodeProcess, ...]]:
        return {
            node: workers
            for stem, workers in self._state.workers().items()
            if self._is_selected(node := node_of(self._app.settings, stem))
        }

    def _gone(self, node: Node, outcome: StopOutcome) -> None:
        before = self._outcomes[node]
        if before.outcome is StopOutcome.STOPPING:
            self._outcomes[node] = StoppedNode(node, outcome, before.pid)
        self._state.forget(node.stem)


def check_gone(outcomes: Iterable[StoppedNode], wait_seconds: float) -> None:
    """Check that no node still runs.

    Raises:
        FleetError: Some do; the message names them and their pids.
    """
    left = [outcome for outcome in outcomes if outcome.outcome is StopOutcome.STOPPING]
    if left:
        hung = [str(outcome.hang) for outcome in left if outcome.hang]
        busy = [f"{outcome.node.name} (pid {outcome.pid})" for outcome in left if not outcome.hang]
        words = [f"finishing their tasks: {', '.join(busy)}; wait longer with --timeout"] if busy else []
        raise FleetError(
            f"still running after {wait_seconds:g} s, {'; '.join([*words, *hung])}; "
            f"--kill ends them, and their tasks go back to the queue"
        )
