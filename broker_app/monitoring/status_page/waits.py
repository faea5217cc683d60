"""What the counts of a histogram's buckets say of how long tasks waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return the time that this share of the tasks did not exceed; None without a task.

    Inside a bucket the tasks are taken to be spread evenly, as Prometheus' ``histogram_quantile`` takes them; what
    is beyond the last bound counts as that bound.

    Args:
        bounds: Upper bounds of the buckets, rising.
        counts: Tasks in each bucket, and at the end those beyond the last bound.
        share: 0..1.

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
    """Return the bounds of the bucket that `quantile` lies in, for certain; None without a task.

    The upper one is None beyond the last bound.

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
    """Return which share of the tasks waited no longer, 0..1; None without a task.

    Exact if ``seconds`` is one of the bounds; else what is in its bucket counts as longer.
    """
    total = sum(counts)
    if not total:
        return None
    return sum(count for bound, count in zip(bounds, counts, strict=False) if bound <= seconds) / total
