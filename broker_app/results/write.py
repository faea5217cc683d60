"""Writes to the result store that wait in a process, with their rows, times and callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery import states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FINAL = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED})
"""The states that `get()` waits for. Others are written only once: nothing depends on them."""

URGENT = FINAL | {states.RETRY}
"""The states that are written at once. The retry may soon run elsewhere, and its state must come last."""

RESULT, CHORD_PART = "result", "part of a chord"

Key = tuple[str, str]
"""A task's id, and `RESULT` or `CHORD_PART`."""


@dataclass(eq=False, slots=True)
class Write:
    """A write that waits.

    Attributes:
        function: Writes `row`, and others like it in one batch; without a row it is called with nothing.
        row: The prepared state, or a function that returns it when it is written; None for a write that cannot be
            part of a batch.
        state: The task's state.
        is_deferred: Whether nothing waits for it any longer, since the store has failed for a while.
        then: Called in the thread that writes, once the row is stored, with a function that it calls when what
            follows is done. The callbacks wait for that.
        error: Why the store cannot hold it; None otherwise.
    """

    function: Callable[..., object]
    row: Any
    state: str
    since: float
    due: float
    is_awaited: bool = False
    is_deferred: bool = False
    is_over: bool = False
    then: Callable[[Callable[[], None]], object] | None = None
    error: Exception | None = None
    callbacks: list[Callable[[], object]] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """True for a final state, which `get()` waits for."""
        return self.state in FINAL


def is_unstorable(error: Exception) -> bool:
    """Return whether an error is caused by the value, so that a retry cannot help."""
    return isinstance(error, (ValueError, TypeError)) or type(error).__name__ in {"DataError", "EncodeError"}


def failure_of(writes: Sequence[Write]) -> Exception | None:
    """Write, in one batch, and return the store's error; None if there is none."""
    try:
        if writes[0].row is None:
            writes[0].function()
        else:
            writes[0].function([write.row() if callable(write.row) else write.row for write in writes])
    except Exception as error:  # noqa: BLE001 - each store has its own errors
        return error
    return None
