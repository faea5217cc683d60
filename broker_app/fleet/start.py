"""Starting fleets: refuse what cannot work, run `celery multi`, and wait until each node answers and consumes.

`celery multi` says OK as soon as a worker has detached. Whether it lives is seen here: its process is there,
it answers over the broker with the pid of that process, and it consumes its queue.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from broker_app import topology
from broker_app.errors import FleetError, NodesFailed
from broker_app.fleet.answers import Answer, ask_workers, is_name_taken
from broker_app.fleet.multi import LAUNCH_SECONDS_PER_NODE, Launch, child_environment, launch, start_command
from broker_app.fleet.nodes import Fleet, Node, wanted_fleets
from broker_app.fleet.state import FleetState
from queues import work_topology

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from broker_app.app import BrokerApp
    from broker_app.fleet.processes import Process

logger = logging.getLogger(__name__)

DEFAULT_WAIT_SECONDS = 30.0
LOG_LINES = 10
"""Shown of the log of a node that did not come up."""

_ASK_SECONDS = 1.0
_POLL_SECONDS = 0.2


class Start(StrEnum):
    """What became of a node that is wanted."""

    STARTED = "started"
    ALREADY_RUNNING = "already running"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StartedNode:
    """The outcome of one node.

    Attributes:
        node: Which.
        outcome: What became of it.
        log: Its log file, which need not be there.
        pid: Of its main process; None if there is none.
        slots: Tasks that it runs at once; None if it is not up.
        reason: Why it failed, else empty.
        log_lines: The last lines that it wrote since it was started, if it failed.
    """

    node: Node
    outcome: Start
    log: Path
    pid: int | None = None
    slots: int | None = None
    reason: str = ""
    log_lines: tuple[str, ...] = ()


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
    fails: a queue that is served is better than none, and the next start takes up only what is missing.

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
            cannot be imported, or a node's name is taken by a worker from elsewhere.
        BrokerError: No broker answers, or it refuses the queues.
        NodesFailed: At least one node is not up; it carries the outcome of each.
    """
    fleets = wanted_fleets(app.settings, queues)
    state = FleetState.of(app)
    with state.lock():
        running = state.workers()
        missing = _missing(fleets, running)
        check_ready(app, fleets, [node for fleet in missing for node in fleet.nodes])
        _forget_dead(state, missing)
        watch = _Watch(app, state, fleets, running)
        watch.launched(_launch_all(missing, app_name or app.main, state, child_environment(environment)))
        outcomes = watch.wait(wait_seconds)
    if any(outcome.outcome is Start.FAILED for outcome in outcomes):
        raise NodesFailed(outcomes)
    return outcomes


def check_ready(app: BrokerApp, fleets: Iterable[Fleet], nodes: Iterable[Node]) -> None:
    """Refuse what would end every worker at once, with the reason that its log would not tell.

    Args:
        app: The workers' app; its task modules are imported as they would.
        fleets: Their queues are declared.
        nodes: Their names must be free on the broker.

    Raises:
        FleetError: A module cannot be imported, or a name is taken.
        BrokerError: No broker answers, or it refuses a queue.
    """
    try:
        app.loader.import_default_modules()
    except Exception as error:  # a user's module may raise anything
        raise FleetError(
            f"app {app.main!r}: expected task modules that can be imported, got {type(error).__name__}: {error}; "
            f"correct include=[…] or the module"
        ) from error
    settings, table = app.settings, app.settings.routing_table()
    with topology.connect(app) as connection:
        topology.declare(
            connection, work_topology([table.queue(fleet.queue) for fleet in fleets], settings.prefix)
        )
        taken = [node.name for node in nodes if is_name_taken(app, connection, node.name)]
    for name, answer in ask_workers(app, taken, timeout_seconds=_ASK_SECONDS).items():
        raise FleetError(
            f"node {name}: a worker of this name (pid {answer.pid}) already answers on this broker and is not in "
            f"{FleetState.of(app).run}; stop it where it was started, or set another prefix"
        )


def _missing(fleets: Iterable[Fleet], running: Mapping[str, object]) -> list[Fleet]:
    """Return the fleets with only those nodes that do not run; fleets that are complete are left out."""
    rest = [
        replace(fleet, nodes=tuple(node for node in fleet.nodes if node.stem not in running)) for fleet in fleets
    ]
    return [fleet for fleet in rest if fleet.nodes]


def _forget_dead(state: FleetState, missing: Iterable[Fleet]) -> None:
    """Remove pid files whose process is gone: celery would take a new process of that number for the worker."""
    for fleet in missing:
        for node in fleet.nodes:
            if node.stem in state.recorded():
                logger.warning("%s had ended without removing its pid file", node.name)
            state.forget(node.stem)


def _launch_all(
    fleets: Iterable[Fleet], app_name: str, state: FleetState, environment: Mapping[str, str]
) -> dict[str, Launch]:
    """Run one `celery multi` for each fleet, side by side, and return what came of it by queue."""

    def run(fleet: Fleet) -> Launch:
        timeout_seconds = LAUNCH_SECONDS_PER_NODE * len(fleet.nodes)
        own = {**environment, **fleet.settings.environment}
        return launch(start_command(fleet, app_name, state), own, timeout_seconds)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        futures = {fleet.queue: pool.submit(run, fleet) for fleet in fleets}
    return {queue: future.result() for queue, future in futures.items()}


class _Watch:
    """Follows the wanted nodes until each is up or has failed."""

    def __init__(
        self,
        app: BrokerApp,
        state: FleetState,
        fleets: tuple[Fleet, ...],
        running: Mapping[str, tuple[Process, ...]],
    ) -> None:
        self._app = app
        self._state = state
        self._fleets = {node: fleet for fleet in fleets for node in fleet.nodes}
        self._were_running = frozenset(running)
        self._log_start_bytes = {node: state.log_bytes(node.stem) for node in self._fleets}
        self._done: dict[Node, StartedNode] = {}

    def launched(self, launches: Mapping[str, Launch]) -> None:
        """Take note of the launches: who did not even detach, and who is ending and was left alone."""
        running = self._state.workers()
        for node, fleet in self._fleets.items():
            first = next(iter(running.get(node.stem, ())), None)
            launch = launches.get(fleet.queue)
            if first is None and launch is not None and not launch.is_ok:
                self._fail(node, None, "it could not be started", launch.lines)
            elif first is not None and self._state.is_stopping(node.stem, first.pid):
                self._fail(node, first.pid, "it was told to stop and finishes its tasks; use `fleet restart`")

    def wait(self, seconds: float) -> tuple[StartedNode, ...]:
        """Return the outcomes, in the order of the settings, when all are known or the time is over."""
        deadline = time.monotonic() + seconds
        answers = self._look()
        while self._pending() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            answers = self._look()
        running = self._state.workers()
        for node in self._pending():
            pid = running[node.stem][0].pid if node.stem in running else None
            self._fail(node, pid, self._complaint(node, answers.get(node), seconds))
        return tuple(self._done[node] for node in self._fleets)

    def _pending(self) -> list[Node]:
        return [node for node in self._fleets if node not in self._done]

    def _look(self) -> dict[Node, Answer]:
        """Settle the nodes that have ended or are up; return what the others answered."""
        running = self._state.workers()
        for node in self._pending():
            if node.stem not in running:
                self._fail(node, None, "it ended while it started")
        names = {running[node.stem][0].node_name or node.name: node for node in self._pending()}
        answers = {names[name]: answer for name, answer in self._ask(list(names)).items()}
        for node, answer in answers.items():
            pids = {process.pid for process in running[node.stem]}
            if answer.pid in pids and self._fleets[node].broker_queue in answer.queues:
                self._succeed(node, answer.pid, answer.slots)
        for node in self._pending():
            if node.stem in self._were_running and self._fleets[node].pool == "solo":
                # it is silent while it runs a task, and that may take long
                self._succeed(node, running[node.stem][0].pid, self._fleets[node].concurrency)
        return answers

    def _ask(self, names: list[str]) -> dict[str, Answer]:
        try:
            return ask_workers(self._app, names, timeout_seconds=_ASK_SECONDS)
        except (OperationalError, *self._app.connection_for_write().connection_errors) as error:
            logger.warning("the broker could not be asked about the workers: %s", topology.words(error))
            return {}

    def _succeed(self, node: Node, pid: int, slots: int) -> None:
        outcome = Start.ALREADY_RUNNING if node.stem in self._were_running else Start.STARTED
        self._done[node] = StartedNode(node, outcome, self._state.log_file(node.stem), pid, slots)

    def _fail(self, node: Node, pid: int | None, reason: str, lines: tuple[str, ...] = ()) -> None:
        start_bytes = self._log_start_bytes[node]
        shown = lines[-LOG_LINES:] or self._state.log_tail(node.stem, start_bytes, LOG_LINES)
        log = self._state.log_file(node.stem)
        self._done[node] = StartedNode(node, Start.FAILED, log, pid, reason=reason, log_lines=shown)

    def _complaint(self, node: Node, answer: Answer | None, seconds: float) -> str:
        if answer is None:
            return f"it did not answer within {seconds:g} s"
        queue = self._fleets[node].broker_queue
        if queue not in answer.queues:
            return f"it consumes {', '.join(answer.queues) or 'nothing'}, not {queue}"
        return f"another worker (pid {answer.pid}) answers by its name"
