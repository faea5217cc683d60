"""Records the ids of tasks that the current thread publishes, for callers that must know whether it did."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_here = threading.local()


def note_sent(task_id: str) -> None:
    """Record that the current thread published a task."""
    ids: set[str] | None = getattr(_here, "ids", None)
    if ids is not None:
        ids.add(task_id)


@contextmanager
def noting_sent() -> Iterator[set[str]]:
    """Yield a set that collects the ids published by the current thread within the block."""
    before: set[str] | None = getattr(_here, "ids", None)
    ids: set[str] = set()
    _here.ids = ids
    try:
        yield ids
    finally:
        _here.ids = before
