"""Message filters, as given on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from broker_app.errors import SelectionError
from broker_app.messages.summary import BY_BROKER

if TYPE_CHECKING:
    from broker_app.messages.summary import MessageSummary

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?=\d)(?:(\d{1,5})d)?(?:(\d{1,7})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """A message filter: a message must match every criterion; without criteria all messages match.

    Attributes:
        tasks: Patterns (``shop.*``), one of which must match the task's name.
        ids: Task ids, one of which must be the task's.
        reasons: Patterns, one of which must match the reason; ``rejected`` also matches ``broker:rejected``.
        older_than_seconds: Minimum age, counted from dead-lettering, or else from publishing.
        newer_than_seconds: The age must be less than this.
        limit: Maximum number of matching messages.
    """

    tasks: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()
    older_than_seconds: float | None = None
    newer_than_seconds: float | None = None
    limit: int | None = None

    @property
    def is_everything(self) -> bool:
        """True if every message matches."""
        return self == MessageFilter()

    def matches(self, summary: MessageSummary) -> bool:
        """Return whether a message matches, ignoring the limit; an unknown age matches no age criterion."""
        return (
            (not self.ids or summary.id in self.ids)
            and (not self.tasks or any(fnmatchcase(summary.task, pattern) for pattern in self.tasks))
            and (not self.reasons or any(_is_reason(summary.reason, pattern) for pattern in self.reasons))
            and self._has_age(summary.age_seconds)
        )

    def _has_age(self, age_seconds: float | None) -> bool:
        if self.older_than_seconds is not None and (age_seconds is None or age_seconds < self.older_than_seconds):
            return False
        return self.newer_than_seconds is None or (
            age_seconds is not None and age_seconds < self.newer_than_seconds
        )


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``10m``, ``2h``, ``3d`` or several of them, larger ones first: ``1h30m``.

    Raises:
        SelectionError: Anything else.

    Example:
        >>> parse_duration("1h30m")
        5400.0
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise SelectionError(f"expected a time such as 90s, 10m, 2h, 3d or 1h30m, got {text!r}")
    return float(
        sum(int(number or 0) * unit for number, unit in zip(match.groups(), _UNITS.values(), strict=True))
    )


def _is_reason(reason: str, pattern: str) -> bool:
    return fnmatchcase(reason, pattern) or fnmatchcase(reason.removeprefix(BY_BROKER), pattern)
