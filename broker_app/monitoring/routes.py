"""Routing table of the metrics server: metrics, probes, target discovery, and the status page."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.monitoring.exposition import encode
from broker_app.monitoring.http_messages import HttpRequest, HttpResponse, HttpRoute, as_json
from broker_app.monitoring.probes import Probe, probe
from broker_app.monitoring.targets import found_targets

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.monitoring.collector import Collector
    from broker_app.monitoring.status_page import StatusPage
    from broker_app.settings import MetricsSettings


def routes(
    app: BrokerApp, collector: Collector, settings: MetricsSettings, page: StatusPage
) -> dict[str, HttpRoute]:
    """Return the routes by path."""

    def metrics(request: HttpRequest) -> HttpResponse:
        accepts = request.headers.get
        body, headers = encode(collector.registry(), accepts("accept", ""), accepts("accept-encoding", ""))
        return HttpResponse(body, headers.pop("Content-Type"), headers=headers)

    def live(request: HttpRequest) -> HttpResponse:
        node = request.query.get("node")
        return HttpResponse("live\n") if node is None else _probed(app, Probe.LIVE, node)

    def ready(request: HttpRequest) -> HttpResponse:
        if node := request.query.get("node"):
            return _probed(app, Probe.READY, node)
        snapshot = collector.collect()
        reading, is_up = snapshot.reading, snapshot.broker.is_up
        found = {"broker": is_up, "files": reading.read, "unreadable": reading.unreadable}
        return as_json(found, HTTPStatus.SERVICE_UNAVAILABLE if reading.problem else HTTPStatus.OK)

    def discovery(_: HttpRequest) -> HttpResponse:
        return as_json(found_targets(settings, collector.collect().broker.hosts))

    return {
        "/metrics": HttpRoute(metrics),
        "/live": HttpRoute(live, is_open=True),
        "/ready": HttpRoute(ready, is_open=True),
        "/targets": HttpRoute(discovery),
        **page.routes(),
    }


def _probed(app: BrokerApp, what: Probe, node: str) -> HttpResponse:
    """Probe a node. This route is unauthenticated, so the response does not list the known nodes."""
    try:
        result = probe(app, what, node)
    except FleetError:
        return HttpResponse("no such node on this host\n", status=HTTPStatus.NOT_FOUND)
    status = HTTPStatus.OK if result.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
    return HttpResponse(f"{result}\n", status=status)
