"""Starting, scaling and rolling restarts of fleets: one node of a queue at a time, queues in parallel.

Missing nodes are started first and surplus nodes stopped last, so a fleet of two or more nodes always has a
consumer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker_app.errors import BrokerAppError
from broker_app.fleet.nodes import wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.rolling_change import RollingChange, RollingTimeouts
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS, check_ready, check_up, resume
from broker_app.fleet.state import FleetState
from broker_app.fleet.stop import (
    StoppedNode,
    check_queues,
    known_nodes,
    patience_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.startup_check import StartedNode

logger = logging.getLogger(__name__)


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
        roll = RollingChange.of(app, state, app_name, patience, environment)
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
        roll = RollingChange.of(app, state, app_name, patience, environment)
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
        roll = RollingChange.of(app, state, app_name, patience, environment)
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
        roll = RollingChange.of(app, state, app_name, patience, environment)
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
