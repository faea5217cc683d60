"""Signal handling: SIGINT, SIGTERM or SIGHUP ends a command once, and cannot interrupt its clean-up."""

from __future__ import annotations

import signal
import time
from math import inf
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_SECONDS = 5.0
"""If clean-up has not begun this long after a signal, the command hangs, and the next signal interrupts again."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Raises KeyboardInterrupt in the main thread on the first signal.

    As a context manager it restores the previous handlers. Signals that were ignored before, such as SIGHUP under
    ``nohup``, stay ignored.

    Attributes:
        has_come: Whether a signal was received.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False
        self._raised_at = -inf
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> bool:
        """From now on only record signals, to protect the clean-up; return whether one was received."""
        self._is_held = True
        return self.has_come

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, *_signal: Any) -> None:
        """Record the signal. Not SIG_IGN, which programs started by the clean-up would inherit."""
        self.has_come = True
        now = time.monotonic()
        if not self._is_held and now - self._raised_at > PATIENCE_SECONDS:
            self._raised_at = now
            raise KeyboardInterrupt
