"""The page on which a person sees what waits, why, and what failed; made from what `broker_app.metrics` reads."""

from __future__ import annotations

from broker_app.monitoring.status_page.page import StatusPage

__all__ = ["StatusPage"]
