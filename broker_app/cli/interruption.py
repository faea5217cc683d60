"""Ctrl-C, SIGTERM and the end of the terminal: one of them ends the demo, and none disturbs its clean-up."""

from __future__ import annotations

import signal
import time
from math import inf
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_SECONDS = 5.0
"""A signal this long after the first one counts again, if the clean-up has not begun: something hangs."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Raises KeyboardInterrupt in the main thread at the first of these signals.

    As a context manager it puts the former handlers back. A signal that was ignored before, as SIGHUP below
    ``nohup``, is ignored on.

    Attributes:
        has_come: Whether there was a signal.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False
        self._raised_at = -inf
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> bool:
        """From now on only note signals, so that the clean-up is not cut short; return whether one has come."""
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
        """Note it. The handler stays ours, and is not SIG_IGN, which programs started by the clean-up inherit."""
        self.has_come = True
        now = time.monotonic()
        if not self._is_held and now - self._raised_at > PATIENCE_SECONDS:
            self._raised_at = now
            raise KeyboardInterrupt
