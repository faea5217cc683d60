"""Quantiles and shares of waits, from the bucket counts of a histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the wait that this share of the tasks did not exceed; None without tasks.

    Like Prometheus' ``histogram_quantile``, it interpolates linearly within a bucket, and returns the last bound
    for values in the +Inf bucket.

    Args:
        bounds: Upper bounds of the buckets, ascending.
        counts: Tasks in each bucket, followed by the +Inf bucket.
        share: The quantile, 0..1.

    Example:
        >>> quantile((1.0, 2.0), (50, 50, 0), 0.75)
        1.5
    """
    wanted = sum(counts) * share
    if not wanted:
        return None
    low = seen = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        low, seen = bound, seen + count
    return low


def bucket_of(bounds: Sequence[float], counts: Sequence[float], share: float) -> tuple[float, float | None] | None:
    """Return the bounds of the bucket that contains the quantile; None without tasks.

    The upper bound of the +Inf bucket is None.

    Example:
        >>> bucket_of((1.0, 2.0), (50, 50, 0), 0.75)
        (1.0, 2.0)
    """
    wanted = sum(counts) * share
    if not wanted:
        return None
    low = seen = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        seen += count
        if count and seen >= wanted:
            return low, bound
        low = bound
    return low, None


def share_within(bounds: Sequence[float], counts: Sequence[float], seconds: float) -> float | None:
    """Return the share of tasks that waited at most ``seconds``, 0..1; None without tasks.

    Exact if ``seconds`` is one of the bounds; otherwise the tasks in its bucket count as longer.
    """
    total = sum(counts)
    if not total:
        return None
    return sum(count for bound, count in zip(bounds, counts, strict=False) if bound <= seconds) / total
