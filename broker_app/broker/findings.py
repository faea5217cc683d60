"""Findings of `broker-app check`: how much each matters, and where it was made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was judged.

    Attributes:
        level: An error is something that will not work.
        where: The setting, the queue or the part of the broker.
        text: What was found, and what to do about it.
    """

    level: Level
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.where}: {self.text}"
