"""Status page: queues, waits, workers and dead letters in the browser, from the metrics of this host."""

from __future__ import annotations

from broker_app.monitoring.status_page.page import StatusPage

__all__ = ["StatusPage"]
