"""The status page served in this process, with readings that the test supplies."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from apps import app_maker
from ending import joined
from page_states import SETTINGS, Told

from broker_app.monitoring.http_server import MetricsServer
from broker_app.monitoring.status_page import StatusPage
from broker_app.settings import MetricsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app import BrokerApp
    from broker_app.monitoring.collector import Collector

NOWHERE = "amqp://guest:guest@127.0.0.1:1//"


@dataclass(frozen=True)
class PageServer:
    """A page that is served.

    Attributes:
        url: Where, without the slash at its end.
        app: Whose page.
        page: The same.
    """

    url: str
    app: BrokerApp
    page: StatusPage


@contextmanager
def page_server(folder: Path, told: Told, *, url: str = NOWHERE, **settings: Any) -> Iterator[PageServer]:
    """Serve the page for the length of a block; on a free port unless the settings name one.

    Args:
        folder: For the app's files.
        told: The readings.
        url: Of the broker, for dead letters and actions.
        **settings: Of the metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = MetricsSettings(**{"port": 0} | settings)
    with app_maker(folder, url) as make_app:
        app = make_app(SETTINGS)
        page = StatusPage(app, cast("Collector", told), chosen, "1.2.3")
        told.fill(page)
        server = MetricsServer(chosen)
        thread = threading.Thread(target=server.serve, args=(page.routes(),), daemon=True)
        thread.start()
        try:
            yield PageServer(server.url, app, page)
        finally:
            server.close()
            joined(thread)
