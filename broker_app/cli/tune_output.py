"""Output of `broker-app tune`: a table for people, or all figures as JSON."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from broker_app.cli.output import echo
from broker_app.tuning.limits import WORDS
from broker_app.tuning.readable import shown_number
from broker_app.tuning.settings_file import fleet_lines

if TYPE_CHECKING:
    from broker_app.tuning import Measurement, TuningResult
    from broker_app.tuning.recommendation import PoolResult

_COLUMNS: tuple[str, ...] = ("pool", "-c", "tasks/s", "±", "run p50", "run p95", "wait p50", "wait p95", "busy")
_COLUMNS += ("CPU", "memory", "threads", "files", "")


def print_result(tuning: TuningResult, name: str) -> None:
    """Print the table of all measurements, what limits each pool, and the recommendation."""
    rows = [_row(point, result, tuning) for result in tuning.results for point in result.points.values()]
    lines = [_COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *rest = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest[:-1]), line[-1]]
        echo("  ".join(cells).rstrip())
    echo("times in ms; wait at 80 % load, all else at full load; CPU in cores, memory in MiB\n")
    for result in tuning.results:
        echo(_judgement(result))
    for note in tuning.recommendation.notes:
        echo(f"note: {note}")
    if point := tuning.recommendation.point:
        echo(f"\nrecommended: {point.pool} -c {point.slots}, {shown_number(point.throughput)} tasks a second")
        echo(f"  {_multi_line(tuning, name)}")
        echo("in the settings file (--apply writes it):")
        for setting in fleet_lines(tuning.plan.queue, point.pool, point.slots):
            echo(f"  {setting}")


def _row(point: Measurement, result: PoolResult, tuning: TuningResult) -> tuple[str, ...]:
    broken = tuning.plan.limits.broken_by(point)
    mark = "recommended" if point is tuning.recommendation.point else "knee" if point is result.knee else ""
    return (
        point.pool,
        str(point.slots),
        shown_number(point.throughput),
        f"{100 * point.error:.0f} %",
        *(shown_number(1000 * seconds) for seconds in (point.run.p50, point.run.p95)),
        *(shown_number(1000 * seconds) for seconds in ((point.wait.p50, point.wait.p95) if point.wait else ())),
        *(() if point.wait else ("-", "-")),
        f"{100 * point.busy_share:.0f} %",
        f"{point.usage.cpu_cores:.2f}",
        f"{point.usage.memory_bytes / 2**20:.0f}",
        str(point.usage.threads),
        str(point.usage.descriptors),
        f"over: {broken}" if broken else mark,
    )


def _judgement(result: PoolResult) -> str:
    law, sure = result.law, result.confidence
    fitted = f"{shown_number(law.rate)} a second for each slot"
    if sure:
        fitted += f", contention {_span(sure.contention.low, sure.contention.high)}"
        fitted += f", coherency {_span(sure.coherency.low, sure.coherency.high)}"
        fitted += f", knee of the law {sure.knee.low:.0f} to {sure.knee.high:.0f}"
    if len(result.points) == 1:
        return f"{result.pool}: a single number of slots shows neither a limit nor a law"
    return f"{result.pool}: {WORDS[result.ceiling]}\n  law: {fitted}; off by up to {100 * result.misfit:.0f} %"


def _span(low: float, high: float) -> str:
    return f"{shown_number(low)} to {shown_number(high)}"


def _multi_line(tuning: TuningResult, name: str) -> str:
    point, queue = tuning.recommendation.point, tuning.plan.queue
    assert point is not None  # noqa: S101 - only called with a recommendation
    words = ["celery", "multi", "start", queue, "-A", name, "-Q", queue, "-P", point.pool, "-c", str(point.slots)]
    return shlex.join(words)


def as_record(tuning: TuningResult, name: str) -> dict[str, Any]:
    """Return all figures as a JSON object."""
    point = tuning.recommendation.point
    return {
        "queue": tuning.plan.queue,
        "load": str(tuning.plan.load),
        "recommended": None if point is None else {"pool": point.pool, "concurrency": point.slots},
        "settings": [] if point is None else fleet_lines(tuning.plan.queue, point.pool, point.slots),
        "celery_multi": None if point is None else _multi_line(tuning, name),
        "refusals": tuning.recommendation.refusals,
        "notes": tuning.recommendation.notes,
        "pools": [_pool_record(result) for result in tuning.results],
    }


def _pool_record(result: PoolResult) -> dict[str, Any]:
    points = [
        asdict(point)
        | {"throughput": point.throughput, "error": min(point.error, 1e9), "busy_share": point.busy_share}
        for point in result.points.values()
    ]
    return {
        "pool": result.pool,
        "knee": result.knee.slots if result.knee else None,
        "law": asdict(result.law),
        "confidence": asdict(result.confidence) if result.confidence else None,
        "misfit": result.misfit,
        "ceiling": str(result.ceiling),
        "points": points,
    }
