"""Green loop: an event loop in a greenlet of a process that gevent has patched.

gevent's selector lets other greenlets run while the loop waits. asyncio notes the running loop of each thread, but
all greenlets share one. So the note is removed meanwhile: otherwise Django refuses its ORM in other greenlets,
and `asyncio.run` fails there.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from asyncio import _get_running_loop, _set_running_loop
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectors import SelectorKey


def is_green() -> bool:
    """Return whether gevent has patched this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def new_green_loop() -> asyncio.AbstractEventLoop:
    """Return a loop for the calling greenlet; the user's policy would make one that may block all of them."""

    class Selector(selectors.DefaultSelector):  # gevent's, since the process is patched
        """A selector that notes its loop as running only while the loop's greenlet runs."""

        loop: asyncio.AbstractEventLoop | None = None
        other = _get_running_loop()

        def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
            """Wait for I/O."""
            _set_running_loop(self.other)
            try:
                return super().select(timeout)
            finally:
                self.other = _get_running_loop()
                _set_running_loop(self.loop)

        def close(self) -> None:
            """Close the selector of a loop that has ended."""
            super().close()
            _set_running_loop(self.other)

    selector = Selector()
    selector.loop = asyncio.SelectorEventLoop(selector)
    _set_running_loop(None)  # it is about to run
    return selector.loop
