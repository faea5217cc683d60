"""Ports of this host."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_LOWEST, _HIGHEST = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections and to listeners that ask for any (from 32,768 on)."""


def free_port() -> int:
    """Return a port that nothing listens on, and that no process is given by chance while the test uses it."""
    while True:
        port = random.randint(_LOWEST, _HIGHEST)  # noqa: S311 - any will do
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
