"""Bodies elsewhere: which task bodies run in another thread than their slot's, so that interrupts reach them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from broker_app.coroutines.slot import current_slot

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from types import FrameType

    from broker_app.coroutines.slot import Slot

_bodies: dict[Slot | int, Elsewhere] = {}


class Elsewhere(Protocol):
    """A body that another thread runs, while its slot's thread waits for it."""

    @property
    def name(self) -> str:
        """The task's name and id."""

    @property
    def frame(self) -> FrameType | None:
        """The body's frame; None once it has ended."""

    def interrupt(self, error: type[BaseException] | None) -> None:
        """Raise an error in the body soon; None cancels one that was not raised yet."""

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Return whether an asyncio task runs the body, or was created by it."""

    def frame_of(self, task: asyncio.Task[Any]) -> FrameType | None:
        """Return the outermost frame of the user's code in an asyncio task that it owns."""


@contextmanager
def running_elsewhere(body: Elsewhere) -> Iterator[None]:
    """Interrupt a body in place of the calling slot, which waits for it."""
    slot = current_slot()
    before = _bodies.get(slot)
    try:
        _bodies[slot] = body
        if not isinstance(slot, int) and slot.pending is not None:
            body.interrupt(slot.pending)
        yield
    finally:
        if before is None:
            _bodies.pop(slot, None)
        else:
            _bodies[slot] = before


def body_elsewhere(slot: Slot | int) -> Elsewhere | None:
    """Return the body that a thread or another slot waits for; None if a thread runs its body itself."""
    return _bodies.get(slot)


def all_bodies() -> list[Elsewhere]:
    """Return all bodies that run in other threads than their slots."""
    return list(_bodies.values())


def interrupt_elsewhere(slot: Slot, error: type[BaseException] | None) -> None:
    """Raise an error soon in the body that a slot waits for, or will wait for; None cancels it."""
    slot.pending = error
    body = body_elsewhere(slot)
    if body is not None:
        body.interrupt(error)
