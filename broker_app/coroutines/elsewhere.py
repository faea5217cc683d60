"""Bodies elsewhere: which task bodies run in another thread than their slot's, so that interrupts reach them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_bodies: dict[int, Elsewhere] = {}


class Elsewhere(Protocol):
    """A body that another thread runs, while its slot's thread waits for it."""

    @property
    def frame(self) -> FrameType | None:
        """The body's frame; None once it has ended."""

    def interrupt(self, error: type[BaseException] | None) -> None:
        """Raise an error in the body soon; None cancels one that was not raised yet."""


@contextmanager
def running_elsewhere(body: Elsewhere) -> Iterator[None]:
    """Interrupt a body in place of the calling thread, which waits for it."""
    thread = threading.get_ident()
    before = _bodies.get(thread)
    try:
        _bodies[thread] = body
        yield
    finally:
        if before is None:
            _bodies.pop(thread, None)
        else:
            _bodies[thread] = before


def body_elsewhere(thread: int) -> Elsewhere | None:
    """Return the body that a thread waits for; None if it runs its body itself."""
    return _bodies.get(thread)
