"""Which messages are meant: filters that a command line can say."""

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
    """Filters; a message must pass all of them, and none at all passes everything.

    Attributes:
        tasks: Patterns (``shop.*``) of which the task's name must match one.
        ids: Of which the task's id must be one.
        reasons: Patterns of which the reason must match one; ``rejected`` is also the broker's own.
        older_than_seconds: The least age: since it was given up, else since it was published.
        newer_than_seconds: Its age must be less.
        limit: The first so many that pass.
    """

    tasks: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()
    reasons: tuple[str, ...] = ()
    older_than_seconds: float | None = None
    newer_than_seconds: float | None = None
    limit: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether every message passes."""
        return self == MessageFilter()

    def matches(self, letter: MessageSummary) -> bool:
        """Return whether a message passes, the limit apart. One of unknown age passes no filter of ages."""
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.tasks or any(fnmatchcase(letter.task, pattern) for pattern in self.tasks))
            and (not self.reasons or any(_is_reason(letter.reason, pattern) for pattern in self.reasons))
            and self._has_age(letter.age_seconds)
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
