"""Ctrl-C, SIGTERM and the end of the terminal: one of them ends the demo, and none disturbs its clean-up."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Raises KeyboardInterrupt in the main thread at the first of these signals, and only then.

    As a context manager it puts the former handlers back. A signal that was ignored before, as SIGHUP below
    ``nohup``, is ignored on.

    Attributes:
        has_come: Whether there was a signal.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False
        self._before: dict[signal.Signals, Any] = {}

    def hold(self) -> None:
        """From now on only note a signal: what is being ended must be ended whole."""
        self._is_held = True

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
        if not self._is_held:
            self._is_held = True
            raise KeyboardInterrupt
