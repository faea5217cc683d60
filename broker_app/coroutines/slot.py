"""Slots: what runs a task and is the target of its interrupts: a thread, or a greenlet of a tracer thread."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from broker_app.coroutines.waiting import Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

_running: dict[int, Slot] = {}
"""The slots whose greenlets run now, by thread."""


class Slot:
    """A slot that is not a thread.

    Attributes:
        pending: An error to be raised in the task's body, for a body that has not begun yet.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending: type[BaseException] | None = None

    def signal(self) -> Any:
        """Return a signal for which this slot can wait, as `Signal`."""
        raise NotImplementedError


@contextmanager
def entered(slot: Slot) -> Iterator[None]:
    """Make a slot the current one of the calling thread for the length of a block."""
    thread = threading.get_ident()
    _running[thread] = slot
    try:
        yield
    finally:
        del _running[thread]


def current_slot() -> Slot | int:
    """Return the slot that runs the caller, or the identifier of its thread."""
    thread = threading.get_ident()
    return _running.get(thread, thread)


def new_signal() -> Any:
    """Return a `Signal` for which the current slot can wait."""
    slot = current_slot()
    return Signal() if isinstance(slot, int) else slot.signal()
