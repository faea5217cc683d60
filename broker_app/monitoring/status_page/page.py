"""Routes of the status page: assets, figures, dead letters, and actions."""

from __future__ import annotations

import json
import logging
import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from broker_app.errors import BrokerAppError, BrokerError, RoutingError, SelectionError
from broker_app.monitoring.http_messages import HttpResponse, HttpRoute, as_json
from broker_app.monitoring.status_page.actions import (
    DeadLetterAction,
    QueueAction,
    act,
    parse_queue,
    parse_wish,
    switch,
)
from broker_app.monitoring.status_page.document import PageContext, document
from broker_app.monitoring.status_page.guard import RequestGuard
from broker_app.monitoring.status_page.history import History, Sampler
from broker_app.monitoring.status_page.letters import FIRST_LETTERS, MAX_LETTERS, dead_queues, first_letters
from broker_app.monitoring.status_page.queues import Objective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker_app.app import BrokerApp
    from broker_app.monitoring.collector import Collector
    from broker_app.monitoring.http_messages import HttpRequest
    from broker_app.settings import MetricsSettings, QueueSettings

TURN_SECONDS = 20.0
"""Maximum time that a request waits for the previous one: only one at a time accesses the broker."""

FILES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "elements.js": "text/javascript; charset=utf-8",
    "figures.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "queue.js": "text/javascript; charset=utf-8",
    "letters.js": "text/javascript; charset=utf-8",
    "server.js": "text/javascript; charset=utf-8",
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""No external or inline resources, no framing, and no text parsed as markup (w3.org/TR/CSP3,
w3.org/TR/trusted-types)."""

logger = logging.getLogger(__name__)


class StatusPage:
    """The status page of one app on this host.

    Args:
        app: The app.
        collector: Source of the snapshots.
        settings: Address, credentials, and actions token of the server.
        version: Version of broker-app.

    Attributes:
        history: Samples of the last 15 minutes.
    """

    def __init__(self, app: BrokerApp, collector: Collector, settings: MetricsSettings, version: str) -> None:
        self.history = History()
        self._app = app
        self._collector = collector
        self._guard = RequestGuard(settings)
        self._turn = threading.Lock()
        self._about = PageContext(
            app=str(app.main or "broker_app"),
            host=socket.gethostname(),
            version=version,
            queues={name: _objective(queue) for name, queue in app.settings.queues.items()},
            keeps_dead=frozenset(dead_queues(app)),
            has_actions=self._guard.has_actions,
        )

    def sampling(self) -> Sampler:
        """Return a context manager that fills the history."""
        return Sampler(self._collector.collect, self.history)

    def routes(self) -> dict[str, HttpRoute]:
        """Return the routes by path."""
        files = {f"/{name}": HttpRoute(_file(name)) for name in FILES if name != "page.html"}
        actions = {
            f"/actions/{verb}": HttpRoute(self._acting(verb), ("POST",))
            for verb in (*DeadLetterAction, *QueueAction)
        }
        return {
            "/": HttpRoute(_file("page.html")),
            **files,
            "/status.json": HttpRoute(self._status),
            "/dead-letters.json": HttpRoute(self._dead_letters),
            "/actions/check": HttpRoute(self._check, ("POST",)),
            **actions,
        }

    def _status(self, request: HttpRequest) -> HttpResponse:
        if (refusal := self._guard.refuses_reader(request)) is not None:
            return refusal
        return _answer(document(self._collector.collect(), self.history.samples(), self._about))

    def _dead_letters(self, request: HttpRequest) -> HttpResponse:
        if (refusal := self._guard.refuses_contents(request)) is not None:
            return refusal
        queue = request.query.get("queue", "")
        place = dead_queues(self._app).get(queue)
        limit = request.query.get("limit", str(FIRST_LETTERS))
        if place is None or not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_LETTERS:
            return _problem(
                f"expected a queue that keeps its dead letters and a limit of 1 to {MAX_LETTERS}",
                HTTPStatus.BAD_REQUEST,
            )
        return self._in_turn(lambda: first_letters(self._app, queue, place, int(limit)))

    def _check(self, request: HttpRequest) -> HttpResponse:
        """Check a token, so that the page can report a wrong one before the first action."""
        return self._guard.refuses_actor(request) or _answer({"problem": ""})

    def _acting(self, verb: DeadLetterAction | QueueAction) -> Callable[[HttpRequest], HttpResponse]:
        def answer(request: HttpRequest) -> HttpResponse:
            if (refusal := self._guard.refuses_actor(request)) is not None:
                return refusal
            if isinstance(verb, QueueAction):
                return self._in_turn(lambda: self._switch(verb, request))
            return self._in_turn(lambda: self._act(verb, request))

        return answer

    def _switch(self, verb: QueueAction, request: HttpRequest) -> dict[str, Any]:
        queue = parse_queue(request.body)
        logger.info("status page: %s requests: %s %.100r", request.client, verb, queue)
        switch(self._app, verb, queue)
        return {"problem": ""}

    def _act(self, verb: DeadLetterAction, request: HttpRequest) -> dict[str, Any]:
        action = parse_wish(request.body)
        what = "all dead letters" if action.ids is None else f"{len(action.ids)} dead letters"
        logger.info("status page: %s requests: %s %s of %r", request.client, verb, what, action.queue)
        done = act(self._app, verb, action)
        logger.info("status page: %s: %d done, %d failed: %s", verb, done["done"], done["failed"], done["problem"])
        return done

    def _in_turn(self, do: Callable[[], dict[str, Any]]) -> HttpResponse:
        """Run an operation on the broker, one at a time, and return its result or its error."""
        try:
            with self._alone():
                return _answer(do())
        except (RoutingError, SelectionError) as error:
            return _problem(str(error), HTTPStatus.BAD_REQUEST)
        except BrokerAppError as error:
            logger.warning("status page: %s", error)
            return _problem(str(error), HTTPStatus.SERVICE_UNAVAILABLE)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=TURN_SECONDS):
            raise BrokerError("another request is accessing the messages; try again in a moment")
        try:
            yield
        finally:
            self._turn.release()


def _objective(queue: QueueSettings) -> Objective | None:
    seconds = queue.wait_objective_seconds
    return None if seconds is None else Objective(seconds, queue.wait_objective_percent)


def _file(name: str) -> Callable[[HttpRequest], HttpResponse]:
    """Return a handler that serves an asset."""
    text = (
        resources.files("broker_app.monitoring.status_page").joinpath("assets", name).read_text(encoding="utf-8")
    )
    response = HttpResponse(text, FILES[name], headers=HEADERS)
    return lambda _: response


def _answer(content: object) -> HttpResponse:
    response = as_json(content)
    return HttpResponse(response.body, response.content_type, response.status, HEADERS)


def _problem(problem: str, status: HTTPStatus) -> HttpResponse:
    return HttpResponse(json.dumps({"problem": problem}) + "\n", "application/json", status, HEADERS)
