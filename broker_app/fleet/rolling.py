"""Starting fleets, and changing them while they work: one node of a queue at a time.

What is missing is started first and what is too many is stopped last, so a fleet of two nodes or more always has a
consumer. The queues go side by side.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
    """How long nodes may take.

    Attributes:
        stop_seconds: To finish their tasks and end.
        wait_seconds: To answer and consume.
        is_kill_allowed: Whether what has not ended in time is killed; its tasks go back to their queue.
    """

    stop_seconds: float = DEFAULT_STOP_SECONDS
    wait_seconds: float = DEFAULT_WAIT_SECONDS
    is_kill_allowed: bool = False


@dataclass(frozen=True, slots=True)
class NodeChanges:
    """What became of the nodes.

    Attributes:
        started: One for each wanted node, in the order of the settings.
        stopped: Those that were too many, or of a queue that is gone.
        unscaled: Queues that are no longer scaled.
        resting: Queues that were left alone, because an operator stopped them.
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
    """Start the nodes that the settings want and that do not run, and wait until all of them answer.

    The workers keep this process's current folder and environment. What came up stays up when another node
    fails: a queue that is served is better than none, and the next start takes up only what is missing. A node
    that was told to stop and has not ended yet is waited for, and then started.

    Args:
        app: Whose settings count; its broker must be the one that the workers find.
        queues: As producers write them; none for all.
        app_name: What the workers get as ``-A``; None for the app's main name.
        wait_seconds: For the answers, counted from when `celery multi` is done.
        environment: Variables for the workers over this process's, e.g. ``BROKER_APP_BROKER_URL``.

    Returns:
        One outcome for each wanted node, in the order of the settings.

    Raises:
        UnknownQueue: Nothing was started; likewise all below but the last.
        SettingsError: The settings are wrong.
        FleetError: The state folder is not usable, another fleet command is at work, the app's modules
            cannot be imported, a node's name is taken by a worker from elsewhere, or one that was told to stop
            does not end.
        BrokerError: No broker answers, or it refuses the queues.
        NodesFailed: At least one node is not up; it carries the outcome of each.
    """
    queues, state = tuple(queues), FleetState.of(app)
    wanted_fleets(app.settings, queues)  # an unknown queue is refused before a folder is made
    with state.lock():
        wishes = resume(app, state, queues)
        patience = RollingTimeouts(patience_seconds(app, queues), wait_seconds)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        outcomes = roll.run(wanted_fleets(app.settings, queues, wishes.scaled), roll.is_ending)
    return check_up(outcomes)


def restart_fleets(
    app: BrokerApp,
    queues: Iterable[str] = (),
    *,
    app_name: str | None = None,
    patience: RollingTimeouts | None = None,
    environment: Mapping[str, str] | None = None,
) -> NodeChanges:
    """Replace the nodes one after the other, and bring the fleets to what the settings want.

    What would keep the new nodes from coming up is refused while the old ones still run. A queue whose new node
    does not come up keeps its other nodes as they are.

    Args:
        app: As `start_fleets`.
        queues: As producers write them; none for all.
        app_name: As `start_fleets`.
        patience: How long nodes may take; None for the defaults.
        environment: As `start_fleets`.

    Raises:
        NodesFailed: At least one node is not up.
        BrokerAppError: Those of `start_fleets` and `stop_fleets`. An old node that does not end is left running,
            and with it the nodes behind it.
    """
    queues, state = tuple(queues), FleetState.of(app)
    check_ready(app, wanted_fleets(app.settings, queues), ())
    with state.lock():
        wishes = resume(app, state, queues)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        fleets = wanted_fleets(app.settings, queues, wishes.scaled)
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
    """Bring the fleets to what the settings say now, and touch no node for which nothing has changed.

    Nodes that were started with other settings, another version of broker-app or another interpreter are
    replaced as by `restart_fleets`; missing ones are started, surplus ones stopped, also those of queues that are
    gone; other numbers of nodes that operators asked for end. Queues that an operator stopped are left
    alone, unless they are named.

    Args:
        app: As `restart_fleets`; likewise all others.
        queues: As producers write them, also some that are gone from the settings; none for all.
        app_name: See there.
        patience: See there.
        environment: See there.

    Raises:
        BrokerAppError: As `restart_fleets`.
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
    """Give a queue another number of nodes on this host, until it is scaled again or the settings are reloaded.

    Args:
        app: As `restart_fleets`.
        queue: As producers write it.
        nodes: How many; None for as many as the settings say.
        app_name: As `restart_fleets`.
        patience: As `restart_fleets`.
        environment: As `restart_fleets`.

    Raises:
        BrokerAppError: As `restart_fleets`.
    """
    state = FleetState.of(app)
    name = app.settings.routing_table().queue(queue).name
    with state.lock():
        before = resume(app, state, [name])
        kept = None if nodes == app.settings.queues[name].fleet.nodes else nodes
        wishes = before.scale(name, kept)
        fleets = wanted_fleets(app.settings, [name], wishes.scaled)
        roll = _RollingChange.of(app, state, app_name, patience, environment)
        if nodes != 0:
            check_ready(app, fleets, ())
        wishes.write(state.run)
        started = roll.run(fleets, lambda fleet, node: False)  # noqa: ARG005 - what runs stays
        stopped = roll.end(lambda node: node.queue == name, fleets)
    unscaled = (name,) if name in before.scaled and kept is None else ()
    return NodeChanges(check_up(started), stopped, unscaled)


def _unscale(app: BrokerApp, state: FleetState, queues: Iterable[str]) -> tuple[str, ...]:
    """Forget other numbers of nodes, also of queues that are gone; return the queues that the settings know."""
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
    """Changes nodes within the lock."""

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
        """Return whether a node is still shutting down, and log that it is waited for."""
        del fleet
        pids = [process.pid for process in self.state.workers().get(node.stem, ())]
        is_ending = any(self.state.is_stopping(node.stem, pid) for pid in pids)
        if is_ending:
            logger.warning(
                "%s (pid %d) was told to stop and finishes its tasks: waiting for it, up to %g s",
                *(node.name, pids[0], self.patience.stop_seconds),
            )
        return is_ending

    def is_changed(self, fleet: Fleet, node: Node) -> bool:
        """Return whether a node was started with something else than what it would be started with now."""
        return LaunchRecord.read(self.state.record_file(node.stem)) != self.starter.record(fleet)

    def run(self, fleets: tuple[Fleet, ...], is_due: Callable[[Fleet, Node], bool]) -> tuple[StartedNode, ...]:
        """Start what is missing, then replace the nodes that ran and are due, one of a queue at a time."""
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

    def end(self, is_meant: Callable[[Node], bool], fleets: Iterable[Fleet]) -> tuple[StoppedNode, ...]:
        """Stop the nodes among those meant that no fleet wants."""
        wanted = {node for fleet in fleets for node in fleet.nodes}
        return self._stop(lambda node: is_meant(node) and node not in wanted)

    def _replace(self, fleets: list[Fleet]) -> tuple[StartedNode, ...]:
        if not fleets:
            return ()
        nodes = {node for fleet in fleets for node in fleet.nodes}
        with held_space(self.state, [node.stem for node in nodes]):
            self._stop(lambda node: node in nodes)
        return self.starter.start(fleets)

    def _stop(self, is_meant: Callable[[Node], bool]) -> tuple[StoppedNode, ...]:
        stopper = Stopper(self.app, self.state, is_meant, ends_hung=True)
        stopper.end(self.patience.stop_seconds, is_kill_allowed=self.patience.is_kill_allowed)
        outcomes = stopper.outcomes()
        check_gone(outcomes, self.patience.stop_seconds)
        return outcomes


def _waves(fleets: Iterable[Fleet], due: set[Node]) -> list[list[Fleet]]:
    """Return what is replaced at once: of each fleet the next node that is due."""
    queued = [(fleet, [node for node in fleet.nodes if node in due]) for fleet in fleets]
    length = max((len(nodes) for _, nodes in queued), default=0)
    return [
        [replace(fleet, nodes=(nodes[number],)) for fleet, nodes in queued if number < len(nodes)]
        for number in range(length)
    ]
