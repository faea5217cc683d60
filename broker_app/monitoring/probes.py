"""Whether a worker lives, and whether it is ready: by the sign of life that it writes itself, asking nobody.

Live is a worker whose loop turns and that has heard from the broker. Ready is one that lives and consumes; what is
paused on purpose counts as consumed, or pausing a queue would take its pods out of service.
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


class Probe(StrEnum):
    """What is asked."""

    LIVE = "live"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The answer.

    Attributes:
        node: The node's name before the host.
        is_ok: Whether it is.
        words: Why, or why not.
    """

    node: str
    is_ok: bool
    words: str

    def __str__(self) -> str:
        return f"{self.node}: {self.words}"


def probe(app: BrokerApp, what: Probe, node: str | None = None) -> ProbeResult:
    """Judge a node of this host.

    Args:
        app: Whose state folder counts.
        what: Live or ready.
        node: ``lopri`` or ``lopri@host``; None if there is one alone.

    Raises:
        FleetError: There is no such node, or no sign of any, or more than one.
    """
    run = FleetState.of(app).run
    names = sorted(file.name.removesuffix(SUFFIX) for file in run.glob(f"*{SUFFIX}"))
    name = _only(run, names) if node is None else node.partition("@")[0]
    if name not in names:
        raise FleetError(
            f"{run}: expected the sign of life of a node {name!r}, found {', '.join(names) or 'none'}; "
            f"start it, or name another"
        )
    return judge(name, what, Heartbeat.read(run / f"{name}{SUFFIX}"), app.settings.heartbeat_seconds)


def probe_file(app: BrokerApp, what: Probe, pid_file: Path) -> ProbeResult:
    """Judge a worker whose pid file is elsewhere: its sign of life stands beside it.

    Args:
        app: Its heartbeat counts.
        what: Live or ready.
        pid_file: What ``--pidfile`` said.
    """
    return judge(pid_file.stem, what, Heartbeat.read(pid_file.with_suffix(SUFFIX)), app.settings.heartbeat_seconds)


def judge(node: str, what: Probe, sign: Heartbeat | None, heartbeat_seconds: float) -> ProbeResult:
    """Return what a sign of life says.

    Args:
        node: Whose it is.
        what: Live or ready.
        sign: None if there is none.
        heartbeat_seconds: The broker must have been heard in three of them.
    """
    if sign is None:
        return ProbeResult(node, is_ok=False, words="gives no sign of life")
    if sign.turned_seconds >= STUCK_SECONDS:
        return ProbeResult(node, is_ok=False, words=f"its loop has not turned for {sign.turned_seconds:.0f} s")
    if not sign.is_fresh(heartbeat_seconds):
        since = "yet" if sign.heard_seconds is None else f"for {sign.heard_seconds:.0f} s"
        return ProbeResult(node, is_ok=False, words=f"has not heard from the broker {since}")
    if what is Probe.LIVE:
        return ProbeResult(node, is_ok=True, words=f"live, heard from the broker {sign.heard_seconds:.0f} s ago")
    served = [*sign.queues, *(f"{queue} (paused)" for queue in sign.paused)]
    if not served:
        return ProbeResult(node, is_ok=False, words="consumes nothing: it starts, or ends")
    return ProbeResult(node, is_ok=True, words=f"ready, consumes {', '.join(served)}")


def _only(run: Path, names: list[str]) -> str:
    """Return the node that is meant without a name: the only one, or the only one that still gives signs."""
    fresh = [name for name in names if _is_recent(run / f"{name}{SUFFIX}")]
    found = fresh or names
    if len(found) == 1:
        return found[0]
    what = f"several: {', '.join(found)}; name one" if found else "none; start one"
    raise FleetError(f"{run}: expected the sign of life of one node, found {what}")


def _is_recent(file: Path) -> bool:
    sign = Heartbeat.read(file)
    return sign is not None and sign.turned_seconds < STUCK_SECONDS
