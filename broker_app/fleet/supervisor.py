"""`fleet supervise`: starts the wanted nodes and restarts dead or hung ones, until SIGTERM.

The nodes are detached and keep running if the supervisor is killed; the next supervisor finds them. Queues that an
operator stopped are left alone, and the supervisor does nothing while another fleet command runs.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from broker_app.errors import BrokerAppError, FleetBusy
from broker_app.fleet.multi import child_environment
from broker_app.fleet.nodes import Fleet, Node, first_stem, wanted_fleets
from broker_app.fleet.overrides import Overrides
from broker_app.fleet.pending_starts import PendingStarts
from broker_app.fleet.rescue import Rescue
from broker_app.fleet.restart_backoff import RestartBackoff
from broker_app.fleet.start import DEFAULT_WAIT_SECONDS, Starter, resume
from broker_app.fleet.startup_check import StartedNode, StartOutcome
from broker_app.fleet.state import FleetState
from broker_app.fleet.stop import StopOutcome, patience_seconds, stop_fleets
from broker_app.fleet.supervisor_signals import SIGNALS, SignalFlags, SignalReceived
from broker_app.metrics.catalogue import HUNG, RESTARTS
from broker_app.metrics.recorder import Recorder
from broker_app.metrics.registry import folder_of

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.fleet.hanging import Hang

POLL_SECONDS = 1.0
RESUMED_OPTION = "--resumed"

_BUSY_SECONDS = 120.0
_CHILD_SECONDS = 0.2
_STEM = "supervisor"
_CLI = "import sys; from broker_app.cli import main; sys.exit(main())"
_FATAL_CODES = (2, 3)
"""Exit codes of `fleet reload` when the app fails to load or the settings are invalid."""

logger = logging.getLogger(__name__)


class Supervisor:
    """Supervises the fleets of some queues, or of all.

    Args:
        app: The app whose settings apply.
        queues: Names as producers write them; empty for all, including those added by a reload.
        app_name: The workers' ``-A`` argument.
        is_resumed: Whether it replaces a supervisor after a reload; stopped queues then stay stopped.

    Raises:
        UnknownQueue: The settings do not declare the queue.
    """

    def __init__(
        self, app: BrokerApp, queues: tuple[str, ...] = (), *, app_name: str, is_resumed: bool = False
    ) -> None:
        table = app.settings.routing_table()
        self._app = app
        self._names = tuple(table.queue(queue).name for queue in queues)
        self._app_name = app_name
        self._is_resumed = is_resumed
        self._state = FleetState.of(app)
        self._signal_flags = SignalFlags()
        self._backoffs: dict[Node, RestartBackoff] = {}
        self._pids: dict[Node, int] = {}
        self._late: set[Node] = set()  # started, but not up in time
        self._starts = PendingStarts(DEFAULT_WAIT_SECONDS)
        self._rescue = Rescue(app, self._state)
        self._recorder = self._make_recorder()

    def run(self) -> int:
        """Supervise until SIGTERM or SIGINT, then let the nodes finish their tasks and exit.

        SIGHUP reloads the settings, as `fleet reload` does, and the code.

        Returns:
            The exit code: 0, or 1 if a node had to be killed or still runs.

        Raises:
            FleetError: Another supervisor watches one of the queues, or the state folder is unusable.
        """
        with ExitStack() as stack:
            self._hold(stack)
            self._signal_flags.install()
            while not self._signal_flags.is_ended:
                with suppress(SignalReceived):
                    self._turn()
                if self._signal_flags.is_reloaded and not self._signal_flags.is_ended:
                    self._reload()
            return self._drain()

    def _turn(self) -> None:
        try:
            self._signal_flags.listen()
            self._round()
            time.sleep(POLL_SECONDS)
        finally:
            self._signal_flags.ignore()

    def _hold(self, stack: ExitStack) -> None:
        """Lock out other supervisors of these queues, and start stopped queues unless resumed."""
        host = socket.gethostname()
        for name in self._names or self._app.settings.queues:
            stack.enter_context(self._state.supervision(first_stem(self._app.settings.prefix, name, host)))
            if self._recorder is not None:
                self._recorder.begin(RESTARTS, (name,))
                self._recorder.begin(HUNG, (name,))
        if not self._is_resumed:
            with self._state.lock():
                resume(self._app, self._state, self._names)
        logger.info("supervising %s", ", ".join(self._names or self._app.settings.queues))

    def _round(self) -> None:
        """Check starting nodes, kill hung ones and start missing ones; do nothing while another command runs."""
        _reap()
        hung = self._hung()
        if not self._is_work() and not hung and not self._starts.nodes:
            return
        try:
            with self._state.lock(is_supervisor=True):
                for outcome in self._starts.settled(self._wanted()):
                    self._log_outcome(outcome)
                for hang, fleet in hung:
                    self._kill(hang, fleet)
                due = self._due()
                if due:
                    self._start(due)
        except FleetBusy:
            logger.debug("another fleet command is running")

    def _hung(self) -> list[tuple[Hang, Fleet]]:
        wanted = self._wanted()
        return [(hang, wanted[hang.node]) for hang in self._rescue.hung(wanted, self._state.workers())]

    def _kill(self, hang: Hang, fleet: Fleet) -> None:
        """Kill a hung node; it counts as dead since it began to hang."""
        if not self._rescue.kill(hang, fleet):
            return
        self._starts.forget(hang.node)
        seconds = self._backoffs.setdefault(hang.node, RestartBackoff()).died(
            time.monotonic(), hung_seconds=hang.seconds
        )
        if self._recorder is not None:
            self._recorder.add(HUNG, (fleet.queue,))
        logger.error("%s; it was killed, and is started again in %g s", hang, seconds)

    def _is_work(self) -> bool:
        """Check each wanted node, and return whether a missing one is due or newly dead."""
        missing, now = self._missing(), time.monotonic()
        return any(
            (wait := self._backoffs.setdefault(node, RestartBackoff()).due_at) is None or wait <= now
            for node in missing
        )

    def _missing(self) -> dict[Node, Fleet]:
        """Return the nodes that neither run nor start."""
        running, now = self._state.workers(), time.monotonic()
        missing = {}
        for node, fleet in self._wanted().items():
            if node in self._starts.nodes:
                continue
            if node.stem in running:
                self._backoffs.setdefault(node, RestartBackoff()).ran(now)
                pid = running[node.stem][0].pid
                if node in self._late:
                    self._count_start(node, pid, "later than expected")
                self._pids[node] = pid
            else:
                missing[node] = fleet
        return missing

    def _wanted(self) -> dict[Node, Fleet]:
        """Return the nodes that should run: those of queues that no operator has stopped."""
        overrides = Overrides.read(self._state.run)
        fleets = wanted_fleets(self._app.settings, self._names, overrides.scaled)
        return {node: fleet for fleet in fleets if fleet.queue not in overrides.stopped for node in fleet.nodes}

    def _due(self) -> dict[Node, Fleet]:
        """Return the missing nodes that may be started now; newly dead ones must wait for their backoff."""
        due, now = {}, time.monotonic()
        for node, fleet in self._missing().items():
            backoff = self._backoffs.setdefault(node, RestartBackoff())
            if node in self._pids and backoff.due_at is None:
                seconds = backoff.died(now)
                logger.warning(
                    "%s (pid %d) has died; it is started again in %g s", node.name, self._pids[node], seconds
                )
            elif backoff.due_at is None or backoff.due_at <= now:
                due[node] = fleet
        return due

    def _start(self, due: dict[Node, Fleet]) -> None:
        fleets = [replace(fleet, nodes=(node,)) for node, fleet in due.items()]
        starter = Starter(self._app, self._state, self._app_name, DEFAULT_WAIT_SECONDS, child_environment())
        try:
            self._starts.add(starter.launch(_merged(fleets)), due)
        except (BrokerAppError, OperationalError) as error:
            waits = [self._backoffs[node].died(time.monotonic()) for node in due]
            logger.error("%s; tried again in %g s", " ".join(str(error).split()), min(waits))  # noqa: TRY400

    def _log_outcome(self, outcome: StartedNode) -> None:
        node, backoff = outcome.node, self._backoffs[outcome.node]
        if outcome.outcome is StartOutcome.FAILED:
            seconds = backoff.died(time.monotonic())
            if outcome.pid is not None:
                self._late.add(node)
            shown = "".join(f"\n  {line}" for line in outcome.log_lines)
            logger.error(
                "%s is not up: %s; next check in %g s (log: %s)%s",
                *(node.name, outcome.reason, seconds, outcome.log, shown),
            )
            return
        backoff.ran(time.monotonic())
        self._count_start(node, outcome.pid, f"consumes {node.queue}")

    def _count_start(self, node: Node, pid: int | None, how: str) -> None:
        self._late.discard(node)
        again = " again" if node in self._pids else ""
        if pid is not None:
            self._pids[node] = pid  # it may die before the next round
        if again and self._recorder is not None:
            self._recorder.add(RESTARTS, (node.queue,))
        logger.info("%s: started%s, pid %d, %s", node.name, again, pid, how)

    def _reload(self) -> None:
        """Run `fleet reload`, then re-execute this program with the current settings and code, keeping the pid."""
        self._signal_flags.is_reloaded = False
        logger.info("reloading")
        with subprocess.Popen(_reload_command(self._app_name, self._names)) as child:
            while child.poll() is None:
                if self._signal_flags.is_ended:
                    child.send_signal(signal.SIGINT)
                    child.wait()
                time.sleep(_CHILD_SECONDS)
        if child.returncode in _FATAL_CODES:
            logger.error("the settings or the app are invalid: continuing with the previous ones")
        elif not self._signal_flags.is_ended:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            logging.shutdown()
            words = [word for word in sys.orig_argv[1:] if word != RESUMED_OPTION]
            os.execv(sys.executable, [sys.executable, *words, RESUMED_OPTION])  # noqa: S606 - no shell is wanted

    def _drain(self) -> int:
        seconds = patience_seconds(self._app, self._names)
        logger.info("shutting down: the nodes have up to %g s to finish their tasks", seconds)
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                outcomes = stop_fleets(
                    self._app, self._names, wait_seconds=seconds, is_kill_allowed=True, is_supervisor=True
                )
            except FleetBusy:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            for outcome in outcomes:
                logger.info("%s: %s", outcome.node.name, outcome.outcome)
            _reap()
            return int(any(outcome.outcome in {StopOutcome.KILLED, StopOutcome.HUNG} for outcome in outcomes))

    def _make_recorder(self) -> Recorder | None:
        metrics = self._app.settings.metrics
        return Recorder(folder_of(self._app), _STEM, max_tasks=metrics.max_tasks) if metrics.enabled else None


def _merged(fleets: list[Fleet]) -> tuple[Fleet, ...]:
    """Return one fleet per queue, with all of its nodes."""
    merged: dict[str, Fleet] = {}
    for fleet in fleets:
        before = merged.get(fleet.queue)
        merged[fleet.queue] = replace(fleet, nodes=before.nodes + fleet.nodes) if before else fleet
    return tuple(merged.values())


def _reload_command(app_name: str, queues: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-c", _CLI, "-A", app_name, "fleet", "reload", *queues]


def _reap() -> None:
    """Reap orphaned processes, which a container's first process inherits."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
