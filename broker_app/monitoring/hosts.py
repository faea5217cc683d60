"""The names by which the server is asked, against DNS rebinding.

Somebody else's page can make a name of its own lead to this address, and then read the answers as its own.
The browser writes that name into the Host header, and the page cannot change it.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from broker_app.settings import MetricsSettings

_MAX_TOLD = 100
"""Unknown names that are logged, once each."""

logger = logging.getLogger(__name__)


class KnownHosts:
    """The names of this server: addresses, ``localhost``, this host's, and those of the settings.

    Args:
        settings: ``host`` and ``page_hosts``.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        names = (settings.host, "localhost", socket.gethostname(), *settings.page_hosts)
        self._names = {name.lower() for name in names}
        self._told: set[str] = set()

    def problem(self, host: str) -> str:
        """Return what is wrong with a Host header; empty if it can be that of somebody who meant this server."""
        if self._is_known(host):
            return ""
        problem = (
            f"expected a known name of this server, got {host[:100]!r}; ask it by its address, or add the name to "
            f"metrics.page_hosts"
        )
        if host not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(host)
            logger.warning("request refused: %s", problem)
        return problem

    def _is_known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if not name or name.removesuffix(".") in self._names:
            return True  # without a Host it is no browser
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
