"""Findings of `broker-app check`, each with a severity and a location."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: The severity; ERROR means that something will not work.
        where: The setting, queue or part of the broker.
        text: The finding and its cure.
    """

    level: Level
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.where}: {self.text}"
