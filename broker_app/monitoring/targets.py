"""Where Prometheus finds the servers of the metrics: one on each host where workers run.

The form is that of its file and HTTP discovery (prometheus.io/docs/prometheus/latest/http_sd).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.settings import MetricsSettings


def targets(settings: MetricsSettings, hosts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the servers of these hosts; their port and scheme are those of the settings."""
    labels = {"__scheme__": "https" if settings.certificate else "http"}
    return [{"targets": [_address(host, settings.port) for host in hosts], "labels": labels}]


def found_targets(settings: MetricsSettings, hosts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the servers of this host, and of the others where workers run.

    One that listens on its own host alone (127.0.0.1, the default) is a target for that host's Prometheus, by its
    address; the others' are none then.
    """
    names = [settings.host] if is_local(settings.host) else sorted({socket.gethostname(), *hosts})
    return targets(settings, names)


def is_local(host: str) -> bool:
    """Return whether an address is reached from its own host only."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
