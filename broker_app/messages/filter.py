"""Message filters, as given on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from broker_app.messages.summary import BY_BROKER

if TYPE_CHECKING:
    from broker_app.messages.summary import MessageSummary


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


def _is_reason(reason: str, pattern: str) -> bool:
    return fnmatchcase(reason, pattern) or fnmatchcase(reason.removeprefix(BY_BROKER), pattern)
