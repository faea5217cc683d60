"""Start of a call: from when its time limit counts, if it had to wait before it was made."""

from __future__ import annotations

import time
from contextvars import ContextVar

_starts: ContextVar[list[float] | None] = ContextVar("broker_app_call_starts", default=None)


def set_call_start(moment: float) -> None:
    """Set the start of the next call in the current context, in terms of `time.monotonic`."""
    _starts.set([moment])


def call_start() -> float:
    """Return the start of the call that is being made: what was set for it, else now."""
    starts = _starts.get()
    return starts.pop() if starts else time.monotonic()
