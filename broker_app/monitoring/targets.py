"""Prometheus targets: one metrics server on each host that runs workers.

The format is that of file and HTTP service discovery (prometheus.io/docs/prometheus/latest/http_sd).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.settings import MetricsSettings


def targets(settings: MetricsSettings, hosts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the targets of these hosts, with port and scheme from the settings."""
    labels = {"__scheme__": "https" if settings.certificate else "http"}
    return [{"targets": [_address(host, settings.port) for host in hosts], "labels": labels}]


def found_targets(settings: MetricsSettings, hosts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the targets of this host and of the other hosts that run workers.

    A server that listens on the loopback interface (127.0.0.1, the default) can only be scraped from its own host;
    then the result is that address alone.
    """
    names = [settings.host] if is_local(settings.host) else sorted({socket.gethostname(), *hosts})
    return targets(settings, names)


def is_local(host: str) -> bool:
    """Return whether an address is a loopback address."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
