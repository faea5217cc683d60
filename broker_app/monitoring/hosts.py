"""Host header check: protection against DNS rebinding.

An attacker's page can make its own domain resolve to this server's address and then read the responses as
same-origin. The browser sends that domain in the Host header, and the page cannot change it.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from broker_app.settings import MetricsSettings

_MAX_LOGGED = 100
"""Limit on the unknown names that are logged, once each."""

logger = logging.getLogger(__name__)


class KnownHosts:
    """The accepted names of this server: IP addresses, ``localhost``, the host name, and names from the settings.

    Args:
        settings: ``host`` and ``page_hosts``.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        names = (settings.host, "localhost", socket.gethostname(), *settings.page_hosts)
        self._names = {name.lower() for name in names}
        self._logged: set[str] = set()

    def problem(self, host: str) -> str:
        """Return why a Host header is rejected; empty if it names this server."""
        if self._is_known(host):
            return ""
        problem = (
            f"expected a known name of this server, got {host[:100]!r}; ask it by its address, or add the name to "
            f"metrics.page_hosts"
        )
        if host not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(host)
            logger.warning("request refused: %s", problem)
        return problem

    def _is_known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if not name or name.removesuffix(".") in self._names:
            return True  # browsers always send a Host header
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
