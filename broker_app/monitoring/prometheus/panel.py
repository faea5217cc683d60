"""Panels of the dashboard as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """A query of a panel.

    Attributes:
        expr: PromQL.
        legend: Grafana's legend template.
    """

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart.

    Attributes:
        title: Title of the panel.
        unit: Grafana unit: ``s``, ``short``, ``percentunit``, ``cps``.
        queries: Queries in display order.
        about: Description shown in the panel's tooltip.
        kind: ``timeseries``, or ``stat`` for a single current value.
        stacked: Whether the lines are stacked.
    """

    title: str
    unit: str
    queries: tuple[PanelQuery, ...]
    about: str = ""
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class PanelRow:
    """A titled row of panels."""

    title: str
    panels: tuple[Panel, ...]
