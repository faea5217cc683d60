"""The result of a benchmark, as Markdown for the documents and as values for a script."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from benchmarks.figures import Spread, shown, shown_spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Goal:
    """A wanted and a measured figure.

    Attributes:
        what: The figure, in words.
        measured: Its values.
        limit: The bound of the median.
        is_ceiling: Whether the bound is the most; else it is the least.
        unit: Behind the numbers: ``x``, `` ms``.
    """

    what: str
    measured: Spread
    limit: float
    is_ceiling: bool = False
    unit: str = "x"

    @classmethod
    def none(cls, what: str, number: int) -> Self:
        """Return the goal that a number is zero."""
        return cls(what, Spread.of([float(number)]), 0.0, is_ceiling=True, unit="")

    @property
    def is_met(self) -> bool:
        """Return whether the median keeps the bound."""
        if self.is_ceiling:
            return self.measured.median <= self.limit
        return self.measured.median >= self.limit

    def __str__(self) -> str:
        bound = "at most" if self.is_ceiling else "at least"
        verdict = "met" if self.is_met else "**not met**"
        return (
            f"{self.what}: {shown_spread(self.measured, self.unit)}, "
            f"goal {bound} {shown(self.limit)}{self.unit}: {verdict}."
        )


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's outcome.

    Attributes:
        title: What was measured, in one line.
        columns: Of the table.
        rows: Of the table, one text for each column.
        goals: Those that the project has set itself.
        notes: What must be known to read the table; one paragraph.
        samples: All measured values by contender and quantity, for ``--json``.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[Goal, ...] = ()
    notes: str = ""
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


def markdown(name: str, report: Report) -> str:
    """Return a section for docs/reference/benchmarks.md: heading, table, goals, notes."""
    paragraphs = [
        f"### `{name}`: {report.title}",
        markdown_table(report.columns, report.rows),
        *map(str, report.goals),
        report.notes,
    ]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is left-aligned, the others, which are numbers, right.

    Raises:
        ValueError: A row has not one cell for each column.
    """
    wrong = [row for row in rows if len(row) != len(columns)]
    if wrong:
        raise ValueError(f"each row must have {len(columns)} cells, got {wrong[0]!r}")
    ruler = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ruler, *rows))


def as_values(report: Report) -> dict[str, Any]:
    """Return a report as what JSON knows, with ``is_met`` for each goal."""
    values = asdict(report)
    values["goals"] = [asdict(goal) | {"is_met": goal.is_met} for goal in report.goals]
    return values
