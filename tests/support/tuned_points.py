"""Measured points for the tests of tuning, made up from a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker_app.tuning.measurement import Durations, Measurement, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUIET = 0.01
"""Spread of the rounds of a point, as a share."""


def usage(
    *, cpu: float = 0.1, main: float | None = None, host: float = 0.5, cores: int = 2, memory: int = 100
) -> Usage:
    """Return what a worker used; memory in MiB."""
    return Usage(cpu, cpu if main is None else main, host, cores, memory * 2**20, 1, 10, 20)


def point(  # noqa: PLR0913 - a point has that many figures
    slots: int,
    throughput: float,
    *,
    pool: str = "threads",
    run: float = 0.05,
    latency: float | None = None,
    noise: float = QUIET,
    used: Usage | None = None,
) -> Measurement:
    """Return a point with three rounds around a throughput."""
    rounds = (throughput * (1 - noise), throughput, throughput * (1 + noise))
    late = None if latency is None else Durations(latency, latency, latency, 50)
    return Measurement(pool, slots, rounds, Durations(run, run, run, 100), late, late, used or usage())


def points(rule: Callable[[int], float], slots: Iterable[int], **options: object) -> dict[int, Measurement]:
    """Return points by their slots."""
    return {number: point(number, rule(number), **options) for number in slots}  # type: ignore[arg-type]
