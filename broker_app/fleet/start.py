"""Starting nodes: check the prerequisites, run `celery multi`, and wait until each node replies and consumes.

`celery multi` reports OK as soon as a worker has detached. A node counts as up only if its process exists, replies
over the broker with that process's pid, and consumes its queue.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery.exceptions import ImproperlyConfigured

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology
from broker_app.errors import FleetError, NodesFailed
from broker_app.fleet.inspect_workers import ask_workers, is_name_taken
from broker_app.fleet.launch_record import record_of
from broker_app.fleet.multi import LAUNCH_SECONDS_PER_NODE, Launch, launch, start_command
from broker_app.fleet.nodes import Fleet, Node, wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.space import check_files
from broker_app.fleet.startup_check import ASK_SECONDS, StartedNode, StartOutcome, StartupWatch
from broker_app.fleet.state import FleetState
from broker_app.queues import work_topology
from broker_app.settings.extras import missing_pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker_app.app import BrokerApp
    from broker_app.fleet.launch_record import LaunchRecord

logger = logging.getLogger(__name__)

DEFAULT_WAIT_SECONDS = 30.0


def resume(app: BrokerApp, state: FleetState, queues: Iterable[str]) -> Overrides:
    """Remove the stop of some queues, and return the remaining overrides. Call within the lock."""
    overrides = Overrides.read(state.run)
    started = overrides.start(fleet.queue for fleet in wanted_fleets(app.settings, queues))
    if started != overrides:
        started.write(state.run)
    return started


def check_up(outcomes: Iterable[StartedNode]) -> tuple[StartedNode, ...]:
    """Return the outcomes if all nodes are up.

    Raises:
        NodesFailed: At least one is not up.
    """
    outcomes = tuple(outcomes)
    if any(outcome.outcome is StartOutcome.FAILED for outcome in outcomes):
        raise NodesFailed(outcomes, {outcome.node.name: outcome.reason for outcome in outcomes if outcome.reason})
    return outcomes


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts nodes that do not run; the caller holds the lock.

    Attributes:
        app: The app; the workers must use the same broker.
        state: Location of the nodes' files.
        app_name: The workers' ``-A`` argument.
        wait_seconds: How long each node may take to reply and consume.
        environment: The workers' environment, without the variables from the settings.
    """

    app: BrokerApp
    state: FleetState
    app_name: str
    wait_seconds: float
    environment: Mapping[str, str]

    def start(self, fleets: Iterable[Fleet]) -> tuple[StartedNode, ...]:
        """Start the missing nodes of these fleets, and return one outcome per node, in order.

        Raises:
            BrokerAppError: See `check_ready`; or the disk is full. Nothing was started.
        """
        fleets = tuple(fleet for fleet in fleets if fleet.nodes)
        return self.launch(fleets).wait(self.wait_seconds) if fleets else ()

    def launch(self, fleets: tuple[Fleet, ...]) -> StartupWatch:
        """Launch the missing nodes of these fleets, and return a watch of their start.

        Raises:
            BrokerAppError: As for `start`.
        """
        running = self.state.workers()
        missing = _missing(fleets, running)
        check_ready(self.app, fleets, [node for fleet in missing for node in fleet.nodes])
        check_files(self.state, [node.stem for fleet in missing for node in fleet.nodes])
        self._prepare(missing)
        watch = StartupWatch(self.app, self.state, fleets, running)
        watch.launched(self._launch_all(missing))
        return watch

    def record(self, fleet: Fleet) -> LaunchRecord:
        """Return the launch record that a fleet's nodes would get if started now."""
        command = start_command(replace(fleet, nodes=()), self.app_name, self.state)
        return record_of(fleet, self.app.settings, command)

    def _prepare(self, missing: Iterable[Fleet]) -> None:
        """Remove the files of dead nodes, and write the launch records of the new ones.

        Celery would mistake another process that reuses the pid of an old pid file for the worker.
        """
        for fleet in missing:
            for node in fleet.nodes:
                if node.stem in self.state.recorded():
                    logger.warning("%s exited earlier without removing its pid file", node.name)
                self.state.forget(node.stem)
                self.record(fleet).write(self.state.record_file(node.stem))

    def _launch_all(self, fleets: Iterable[Fleet]) -> dict[str, Launch]:
        """Run one `celery multi` per fleet in parallel, and return the outcomes by queue."""

        def run(fleet: Fleet) -> Launch:
            command = start_command(fleet, self.app_name, self.state)
            environment = {**self.environment, **fleet.settings.environment}
            return launch(command, environment, LAUNCH_SECONDS_PER_NODE * len(fleet.nodes))

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            futures = {fleet.queue: pool.submit(run, fleet) for fleet in fleets}
        return {queue: future.result() for queue, future in futures.items()}


def check_ready(app: BrokerApp, fleets: Iterable[Fleet], nodes: Iterable[Node]) -> None:
    """Check for problems that would make every worker exit at start, and report their reason.

    Args:
        app: The workers' app; its task modules are imported as the workers would.
        fleets: The fleets, whose queues are declared.
        nodes: The nodes, whose names must be free on the broker.

    Raises:
        FleetError: A module fails to import, a package is missing, or a name is taken.
        BrokerError: The broker is unreachable or refuses a queue.
    """
    try:
        app.loader.import_default_modules()
    except Exception as error:  # a user's module may raise anything
        raise FleetError(
            f"app {app.main!r}: expected task modules that can be imported, got {type(error).__name__}: {error}; "
            f"correct include=[…] or the module"
        ) from error
    fleets = tuple(fleets)
    _check_installed(app, fleets)
    settings, table = app.settings, app.settings.routing_table()
    with connect(app) as connection:
        declare_topology(
            connection, work_topology([table.queue(fleet.queue) for fleet in fleets], settings.prefix)
        )
        taken = [node.name for node in nodes if is_name_taken(app, connection, node.name)]
    for name, answer in ask_workers(app, taken, timeout_seconds=ASK_SECONDS).items():
        raise FleetError(
            f"node {name}: a worker of this name (pid {answer.pid}) already answers on this broker and is not in "
            f"{FleetState.of(app).run}; stop it where it was started, or set another prefix"
        )


def _check_installed(app: BrokerApp, fleets: Iterable[Fleet]) -> None:
    """Check that the packages of the pools and the result backend are installed."""
    for fleet in fleets:
        if missing := missing_pool(fleet.pool):
            raise FleetError(f"queues.{fleet.queue}.fleet.pool: {missing}")
    try:
        _ = app.backend
    except ImproperlyConfigured as error:
        raise FleetError(f"result_url: expected a result store that can be loaded, got: {error}") from error


def _missing(fleets: Iterable[Fleet], running: Mapping[str, object]) -> list[Fleet]:
    """Return the fleets with only the nodes that do not run; complete fleets are omitted."""
    rest = [
        replace(fleet, nodes=tuple(node for node in fleet.nodes if node.stem not in running)) for fleet in fleets
    ]
    return [fleet for fleet in rest if fleet.nodes]
