"""A rolling change: start missing nodes, replace due ones one of a queue at a time, stop surplus ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker_app.fleet.launch_record import LaunchRecord
from broker_app.fleet.multi import child_environment
from broker_app.fleet.space import held_space
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS, Starter
from broker_app.fleet.startup_check import StartedNode, StartOutcome
from broker_app.fleet.stop import DEFAULT_STOP_SECONDS, StoppedNode, Stopper, check_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.nodes import Fleet, Node
    from broker_app.fleet.state import FleetState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RollingTimeouts:
    """Timeouts for starting and stopping nodes.

    Attributes:
        stop_seconds: For finishing their tasks and exiting.
        wait_seconds: For replying and consuming after a start.
        is_kill_allowed: Whether to kill nodes that have not exited in time; their tasks return to the queue.
    """

    stop_seconds: float = DEFAULT_STOP_SECONDS
    wait_seconds: float = DEFAULT_WAIT_SECONDS
    is_kill_allowed: bool = False


@dataclass(frozen=True, slots=True)
class RollingChange:
    """Starts, replaces and stops nodes; the caller holds the lock."""

    app: BrokerApp
    state: FleetState
    starter: Starter
    patience: RollingTimeouts

    @classmethod
    def of(
        cls,
        app: BrokerApp,
        state: FleetState,
        app_name: str | None,
        patience: RollingTimeouts | None,
        environment: Mapping[str, str] | None,
    ) -> RollingChange:
        """Return a change by the arguments of the functions in `broker_app.fleet.rolling`."""
        patience = patience or RollingTimeouts()
        variables = child_environment(environment)
        starter = Starter(app, state, app_name or app.main, patience.wait_seconds, variables)
        return cls(app, state, starter, patience)

    def is_ending(self, fleet: Fleet, node: Node) -> bool:
        """Return whether a node is still shutting down, and if so log the wait."""
        del fleet
        pids = [process.pid for process in self.state.workers().get(node.stem, ())]
        is_ending = any(self.state.is_stopping(node.stem, pid) for pid in pids)
        if is_ending:
            logger.warning(
                "%s (pid %d) is stopping and finishing its tasks: waiting up to %g s",
                *(node.name, pids[0], self.patience.stop_seconds),
            )
        return is_ending

    def is_changed(self, fleet: Fleet, node: Node) -> bool:
        """Return whether a node was started with another configuration than the current one."""
        return LaunchRecord.read(self.state.record_file(node.stem)) != self.starter.record(fleet)

    def run(self, fleets: tuple[Fleet, ...], is_due: Callable[[Fleet, Node], bool]) -> tuple[StartedNode, ...]:
        """Start the missing nodes, then replace the running ones that are due, one of a queue at a time."""
        ran = self.state.workers()
        due = {node for fleet in fleets for node in fleet.nodes if node.stem in ran and is_due(fleet, node)}
        fresh = [replace(f, nodes=tuple(node for node in f.nodes if node not in due)) for f in fleets]
        outcomes = {outcome.node: outcome for outcome in self.starter.start(f for f in fresh if f.nodes)}
        failed = {node.queue for node, outcome in outcomes.items() if outcome.outcome is StartOutcome.FAILED}
        for wave in _waves(fleets, due):
            rest = [fleet for fleet in wave if fleet.queue not in failed]
            for outcome in self._replace(rest):
                outcomes[outcome.node] = outcome
                if outcome.outcome is StartOutcome.FAILED:
                    failed.add(outcome.node.queue)
        return tuple(outcomes[node] for fleet in fleets for node in fleet.nodes if node in outcomes)

    def end(self, is_selected: Callable[[Node], bool], fleets: Iterable[Fleet]) -> tuple[StoppedNode, ...]:
        """Stop the selected nodes that belong to none of the fleets."""
        wanted = {node for fleet in fleets for node in fleet.nodes}
        return self._stop(lambda node: is_selected(node) and node not in wanted)

    def _replace(self, fleets: list[Fleet]) -> tuple[StartedNode, ...]:
        if not fleets:
            return ()
        nodes = {node for fleet in fleets for node in fleet.nodes}
        with held_space(self.state, [node.stem for node in nodes]):
            self._stop(lambda node: node in nodes)
        return self.starter.start(fleets)

    def _stop(self, is_selected: Callable[[Node], bool]) -> tuple[StoppedNode, ...]:
        stopper = Stopper(self.app, self.state, is_selected, ends_hung=True)
        stopper.end(self.patience.stop_seconds, is_kill_allowed=self.patience.is_kill_allowed)
        outcomes = stopper.outcomes()
        check_gone(outcomes, self.patience.stop_seconds)
        return outcomes


def _waves(fleets: Iterable[Fleet], due: set[Node]) -> list[list[Fleet]]:
    """Return the steps of the restart, each with the next due node of every fleet."""
    queued = [(fleet, [node for node in fleet.nodes if node in due]) for fleet in fleets]
    length = max((len(nodes) for _, nodes in queued), default=0)
    return [
        [replace(fleet, nodes=(nodes[number],)) for fleet, nodes in queued if number < len(nodes)]
        for number in range(length)
    ]
