"""The signals that end or reload `fleet supervise`."""

from __future__ import annotations

import signal
from dataclasses import dataclass

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalReceived(BaseException):
    """A signal requests shutdown or reload; not an Exception, so that handlers of user errors let it pass."""


@dataclass(slots=True)
class SignalFlags:
    """The shutdown and reload requests received by signal.

    A signal interrupts the current step, as Ctrl-C does, because a start may take a minute. The next round finds
    the nodes that the interrupted start has launched.
    """

    is_ended: bool = False
    is_reloaded: bool = False
    _is_listening: bool = False

    def install(self) -> None:
        """Handle the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked while the supervisor replaced itself

    def listen(self) -> None:
        """Let a signal interrupt the caller from now on; one that came before interrupts it at once."""
        self._is_listening = True
        if self.is_ended or self.is_reloaded:
            raise SignalReceived

    def ignore(self) -> None:
        """Only note signals from now on."""
        self._is_listening = False

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        if number == signal.SIGHUP:
            self.is_reloaded = True
        else:
            self.is_ended = True
        if self._is_listening:
            self._is_listening = False
            raise SignalReceived
