"""Prometheus' text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from broker_app.metrics.catalogue import METRICS, MetricType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from broker_app.metrics.catalogue import Metric
    from broker_app.metrics.reader import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def render(numbers: Mapping[Series, Sequence[float]]) -> str:
    """Return the series as text, in catalogue order, with the ``HELP`` and ``TYPE`` of each metric."""
    by_metric: dict[Metric, list[tuple[Series, Sequence[float]]]] = defaultdict(list)
    for series, values in numbers.items():
        by_metric[series.metric].append((series, values))
    lines: list[str] = []
    for metric in METRICS.values():
        if metric in by_metric:
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
            for series, values in sorted(by_metric[metric], key=lambda one: one[0].labels):
                lines += _lines(series, values)
    return "\n".join(lines) + "\n"


def _lines(series: Series, values: Sequence[float]) -> Iterable[str]:
    pairs = zip(series.metric.labels, series.labels, strict=True)
    labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs)
    if series.metric.kind is MetricType.HISTOGRAM:
        return _histogram(series.metric.name, labels, series.bounds, values)
    return (
        (f"{series.metric.name}{{{labels}}} {_number(values[0])}",)
        if labels
        else (f"{series.metric.name} {_number(values[0])}",)
    )


def _histogram(name: str, labels: str, bounds: Sequence[float], values: Sequence[float]) -> Iterator[str]:
    head = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
    counts = list(accumulate(values[:-1]))
    for bound, count in zip(_bound_labels(tuple(bounds)), counts, strict=True):
        yield f'{head}le="{bound}"}} {_number(count)}'
    yield f"{name}_count{{{labels}}} {_number(counts[-1])}"
    yield f"{name}_sum{{{labels}}} {values[-1]!r}"


@lru_cache(maxsize=16)
def _bound_labels(bounds: tuple[float, ...]) -> tuple[str, ...]:
    """Return the ``le`` labels of all buckets; cached, since most histograms share their bounds."""
    return (*map(bound_label, bounds), "+Inf")


def bound_label(bound: float) -> str:
    """Return a bucket's upper bound as its ``le`` label."""
    return repr(float(bound))


def _number(value: float) -> str:
    if not math.isfinite(value):
        return _SPECIAL.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(value)


_SPECIAL = {math.inf: "+Inf", -math.inf: "-Inf"}
