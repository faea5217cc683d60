"""The paths of the metrics' server. A further page is a further entry in the table."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from broker_app.metrics.exposition import CONTENT_TYPE, render
from broker_app.metrics.server import Request, Response, Route, as_json
from broker_app.metrics.targets import found_targets

if TYPE_CHECKING:
    from broker_app.metrics.collector import Collector
    from broker_app.settings import MetricsSettings
    from broker_app.status_page import StatusPage


def routes(collector: Collector, settings: MetricsSettings, page: StatusPage) -> dict[str, Route]:
    """Return what is answered, by path."""

    def metrics(_: Request) -> Response:
        return Response(render(collector.collect().numbers), CONTENT_TYPE)

    def ready(_: Request) -> Response:
        snapshot = collector.collect()
        reading, is_up = snapshot.reading, snapshot.broker.is_up
        found = {"broker": is_up, "files": reading.read, "unreadable": reading.unreadable}
        return as_json(found, HTTPStatus.SERVICE_UNAVAILABLE if reading.problem else HTTPStatus.OK)

    def discovery(_: Request) -> Response:
        return as_json(found_targets(settings, collector.collect().broker.hosts))

    return {
        "/metrics": Route(metrics),
        "/live": Route(lambda _: Response("live\n"), is_open=True),
        "/ready": Route(ready, is_open=True),
        "/targets": Route(discovery),
        **page.routes(),
    }
