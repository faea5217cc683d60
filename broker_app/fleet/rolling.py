"""Starting, scaling and rolling restarts of fleets: one node of a queue at a time, queues in parallel.

Missing nodes are started first and surplus nodes stopped last, so a fleet of two or more nodes always has a
consumer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker_app.errors import BrokerAppError
from broker_app.fleet.launch_record import LaunchRecord
from broker_app.fleet.multi import child_environment
from broker_app.fleet.nodes import Fleet, Node, wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.space import held_space
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS, Starter, check_ready, check_up, resume
from broker_app.fleet.startup_check import StartedNode, StartOutcome
from broker_app.fleet.state import FleetState
from broker_app.fleet.stop import (
    DEFAULT_STOP_SECONDS,
    StoppedNode,
    Stopper,
    check_gone,
    check_queues,
    known_nodes,
    patience_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from broker_app.app import BrokerApp

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
class NodeChanges:
    """The outcome of a change.

    Attributes:
        started: One for each wanted node, in the order of the settings.
        stopped: Surplus nodes, and those of queues that are gone.
        unscaled: Queues that are no longer scaled.
        resting: Queues that were skipped because an operator stopped them.
    """

    started: tuple[StartedNode, ...]
    stopped: tuple[StoppedNode, ...] = ()
    unscaled: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()


def start_fleets(
    app: BrokerApp,
    queues: Iterable[str] = (),
    *,
    app_name: str | None = None,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> tuple[StartedNode, ...]:
    """Start the wanted nodes that do not run, and wait until all of them reply.

    The workers inherit this process's current folder and environment. If one node fails, the others stay up, and
    the next start only starts the missing ones. A node that is still shutting down is started once it has exited.

    Args:
        app: The app whose settings apply; the workers must use the same broker.
        queues: Names as producers write them; empty for all.
        app_name: The workers' ``-A`` argument; None for the app's main name.
        wait_seconds: How long to wait for the replies once `celery multi` is done.
        environment: Variables for the workers that override this process's, e.g. ``BROKER_APP_BROKER_URL``.

    Returns:
        One outcome for each wanted node, in the order of the settings.

    Raises:
        UnknownQueue: The settings do not declare the queue. Nothing was started.
        SettingsError: The settings are invalid. Nothing was started.
        FleetError: The state folder is unusable, another fleet command is running, the app's modules fail to
            import, a worker elsewhere uses a node's name, or a stopping node does not exit. Nothing was started.
        BrokerError: The broker is unreachable or refuses the queues. Nothing was started.
        NodesFailed: At least one node is not up; the error carries the outcome of each.
    """
    queues, state = tuple(queues), FleetState.of(app)
    wanted_fleets(app.settings, queues)  # reject an unknown queue before creating folders
    with state.lock():
        before, overrides = Overrides.read(state.run), resume(app, state, queues)
        patience = RollingTimeouts(patience_seconds(app, queues), wait_seconds)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        try:
            outcomes = roll.run(wanted_fleets(app.settings, queues, overrides.scaled), roll.is_ending)
        except BrokerAppError:  # nothing was started: queues that an operator stopped stay stopped
            before.write(state.run)
            raise
    return check_up(outcomes)


def restart_fleets(
    app: BrokerApp,
    queues: Iterable[str] = (),
    *,
    app_name: str | None = None,
    patience: RollingTimeouts | None = None,
    environment: Mapping[str, str] | None = None,
) -> NodeChanges:
    """Replace the nodes one by one, and bring the fleets in line with the settings.

    Anything that would prevent the new nodes from starting is detected while the old ones still run. If a new node
    fails to start, the other nodes of its queue are left as they are.

    Args:
        app: See `start_fleets`.
        queues: Names as producers write them; empty for all.
        app_name: See `start_fleets`.
        patience: Timeouts; None for the defaults.
        environment: See `start_fleets`.

    Raises:
        NodesFailed: At least one node is not up.
        BrokerAppError: See `start_fleets` and `stop_fleets`. An old node that does not exit is left running, and
            so are the nodes after it.
    """
    queues, state = tuple(queues), FleetState.of(app)
    check_ready(app, wanted_fleets(app.settings, queues), ())
    with state.lock():
        overrides = resume(app, state, queues)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        fleets = wanted_fleets(app.settings, queues, overrides.scaled)
        started = roll.run(fleets, lambda fleet, node: True)  # noqa: ARG005 - every node is due
        stopped = roll.end(lambda node: node.queue in {fleet.queue for fleet in fleets}, fleets)
    return NodeChanges(check_up(started), stopped)


def reload_fleets(
    app: BrokerApp,
    queues: Iterable[str] = (),
    *,
    app_name: str | None = None,
    patience: RollingTimeouts | None = None,
    environment: Mapping[str, str] | None = None,
) -> NodeChanges:
    """Bring the fleets in line with the current settings without touching unchanged nodes.

    Nodes that were started with other settings, another version of broker-app or another interpreter are
    replaced as by `restart_fleets`. Missing nodes are started, and surplus ones stopped, including those of queues
    that are gone. Scaled queues return to the number in the settings. Queues that an operator stopped are skipped
    unless named.

    Args:
        app: See `restart_fleets`.
        queues: Names as producers write them, including queues no longer in the settings; empty for all.
        app_name: See `restart_fleets`.
        patience: See `restart_fleets`.
        environment: See `restart_fleets`.

    Raises:
        BrokerAppError: See `restart_fleets`.
    """
    queues, state = tuple(queues), FleetState.of(app)
    with state.lock():
        names = check_queues(app, state, queues)
        chosen = [name for name in app.settings.queues if not names or name in names]
        resting = () if names else tuple(name for name in chosen if name in Overrides.read(state.run).stopped)
        active = [name for name in chosen if name not in resting]
        fleets = wanted_fleets(app.settings, active) if active else ()
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        check_ready(app, fleets, ())
        unscaled = _unscale(app, state, active)
        started = roll.run(fleets, roll.is_changed)
        gone = known_nodes(app, state)
        meant = names or {*active, *(node.queue for node in gone if node.queue not in app.settings.queues)}
        stopped = roll.end(lambda node: node.queue in meant, fleets)
    return NodeChanges(check_up(started), stopped, unscaled, resting)


def scale_fleet(
    app: BrokerApp,
    queue: str,
    nodes: int | None,
    *,
    app_name: str | None = None,
    patience: RollingTimeouts | None = None,
    environment: Mapping[str, str] | None = None,
) -> NodeChanges:
    """Change a queue's number of nodes on this host until it is scaled again or the settings are reloaded.

    Args:
        app: See `restart_fleets`.
        queue: Its name, as producers write it.
        nodes: Number of nodes; None for the number in the settings.
        app_name: See `restart_fleets`.
        patience: See `restart_fleets`.
        environment: See `restart_fleets`.

    Raises:
        BrokerAppError: See `restart_fleets`.
    """
    state = FleetState.of(app)
    name = app.settings.routing_table().queue(queue).name
    with state.lock():
        before = resume(app, state, [name])
        kept = None if nodes == app.settings.queues[name].fleet.nodes else nodes
        overrides = before.scale(name, kept)
        fleets = wanted_fleets(app.settings, [name], overrides.scaled)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        if nodes != 0:
            check_ready(app, fleets, ())
        overrides.write(state.run)
        started = roll.run(fleets, lambda fleet, node: False)  # noqa: ARG005 - running nodes stay
        stopped = roll.end(lambda node: node.queue == name, fleets)
    unscaled = (name,) if name in before.scaled and kept is None else ()
    return NodeChanges(check_up(started), stopped, unscaled)


def _unscale(app: BrokerApp, state: FleetState, queues: Iterable[str]) -> tuple[str, ...]:
    """Remove the scaling of some queues and of those that are gone; return the ones that the settings declare."""
    before = Overrides.read(state.run)
    after = before.start(queues)
    scaled = [name for name in before.scaled if name in queues or name not in app.settings.queues]
    for name in scaled:
        after = after.scale(name, None)
    if after != before:
        after.write(state.run)
    return tuple(name for name in scaled if name in app.settings.queues)


@dataclass(frozen=True, slots=True)
class _RollingChange:
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
    ) -> _RollingChange:
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
