"""Liveness and readiness probes of a worker, based on its heartbeat file alone.

A worker is live if its event loops run and it has recently heard from the broker. It is ready if it is live and
consumes a queue. Paused queues count as consumed, so that pausing a queue does not take its pods out of service.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.fleet.state import FleetState
from broker_app.worker.heartbeat_file import STUCK_SECONDS, SUFFIX, Heartbeat

if TYPE_CHECKING:
    from pathlib import Path

    from broker_app.app import BrokerApp
    from broker_app.settings import Settings


class Probe(StrEnum):
    """The kinds of probe."""

    LIVE = "live"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Result of a probe.

    Attributes:
        node: Node name without the host.
        is_ok: Whether the probe succeeded.
        words: The reason, in a few words.
    """

    node: str
    is_ok: bool
    words: str

    def __str__(self) -> str:
        return f"{self.node}: {self.words}"


def probe(app: BrokerApp, what: Probe, node: str | None = None) -> ProbeResult:
    """Probe a node of this host.

    Args:
        app: The app; its state folder holds the heartbeat files.
        what: The kind of probe.
        node: ``lopri`` or ``lopri@host``; None for the only node.

    Raises:
        FleetError: The node has no heartbeat file, or no name was given and there is not exactly one node.
    """
    run = FleetState.of(app).run
    names = sorted(file.name.removesuffix(SUFFIX) for file in run.glob(f"*{SUFFIX}"))
    name = _only(run, names) if node is None else node.partition("@")[0]
    if name not in names:
        raise FleetError(
            f"{run}: expected the heartbeat file of node {name!r}, found {', '.join(names) or 'none'}; "
            f"start the node, or name another one"
        )
    return judge(name, what, Heartbeat.read(run / f"{name}{SUFFIX}"), app.settings)


def probe_file(app: BrokerApp, what: Probe, pid_file: Path) -> ProbeResult:
    """Probe a worker by its pid file; the heartbeat file is in the same folder.

    Args:
        app: The app, with its settings.
        what: The kind of probe.
        pid_file: Value of the worker's ``--pidfile``.
    """
    return judge(pid_file.stem, what, Heartbeat.read(pid_file.with_suffix(SUFFIX)), app.settings)


def judge(node: str, what: Probe, heartbeat: Heartbeat | None, settings: Settings) -> ProbeResult:
    """Evaluate a probe against a heartbeat.

    Args:
        node: Node name.
        what: The kind of probe.
        heartbeat: The node's heartbeat; None if it has written none.
        settings: The app's. The worker must have heard from the broker within three of ``heartbeat_seconds``, and
            its event loop of coroutines must not be blocked for ``blocked_loop_seconds``.
    """
    if heartbeat is None:
        return ProbeResult(node, is_ok=False, words="no heartbeat")
    problem = _problem(heartbeat, settings)
    if problem is not None:
        return ProbeResult(node, is_ok=False, words=problem)
    if what is Probe.LIVE:
        return ProbeResult(
            node, is_ok=True, words=f"live, heard from the broker {heartbeat.heard_seconds:.0f} s ago"
        )
    served = [*heartbeat.queues, *(f"{queue} (paused)" for queue in heartbeat.paused)]
    if not served:
        return ProbeResult(node, is_ok=False, words="consumes nothing: starting or shutting down")
    return ProbeResult(node, is_ok=True, words=f"ready, consumes {', '.join(served)}")


def _problem(heartbeat: Heartbeat, settings: Settings) -> str | None:
    """Return why a node is not live; None if it is."""
    if heartbeat.turned_seconds >= STUCK_SECONDS:
        return f"its loop has not turned for {heartbeat.turned_seconds:.0f} s"
    if heartbeat.blocked_seconds >= settings.blocked_loop_seconds:
        return f"its coroutines have been blocked for {heartbeat.blocked_seconds:.0f} s"
    if not heartbeat.is_fresh(settings.heartbeat_seconds):
        since = "yet" if heartbeat.heard_seconds is None else f"for {heartbeat.heard_seconds:.0f} s"
        return f"has not heard from the broker {since}"
    return None


def _only(run: Path, names: list[str]) -> str:
    """Return the node to probe if none was named: the only one, or the only one with a recent heartbeat."""
    fresh = [name for name in names if _is_recent(run / f"{name}{SUFFIX}")]
    found = fresh or names
    if len(found) == 1:
        return found[0]
    what = f"several: {', '.join(found)}; name one of them" if found else "none; start a node"
    raise FleetError(f"{run}: expected the heartbeat file of one node, found {what}")


def _is_recent(file: Path) -> bool:
    heartbeat = Heartbeat.read(file)
    return heartbeat is not None and heartbeat.turned_seconds < STUCK_SECONDS
