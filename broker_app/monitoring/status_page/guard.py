"""Access checks of the status page: read access, message contents, and actions.

A page from another site in the same browser can send requests to this server. Requests from other sites are
therefore refused, and an action requires the token in a header, which another site cannot send without a CORS
preflight (fetch.spec.whatwg.org, CORS protocol). For DNS rebinding, see `broker_app.monitoring.hosts`.
"""

from __future__ import annotations

import hmac
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker_app.monitoring.http_messages import HttpRequest, HttpResponse, as_json
from broker_app.monitoring.targets import is_local

if TYPE_CHECKING:
    from broker_app.settings import MetricsSettings

TOKEN_HEADER = "x-actions-token"  # noqa: S105 - the name of the header

_OWN_SITES = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for this page and for addresses typed by the user (w3.org/TR/fetch-metadata)."""

logger = logging.getLogger(__name__)


class RequestGuard:
    """Checks whether a request is allowed.

    Args:
        settings: Address, credentials, and actions token of the server.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        token = settings.actions_token
        self._token = None if token is None else token.get_secret_value().encode()
        self._has_login = settings.username is not None
        self._is_local = is_local(settings.host)

    @property
    def has_actions(self) -> bool:
        """True if the actions token is set."""
        return self._token is not None

    def refuses_reader(self, request: HttpRequest) -> HttpResponse | None:
        """Return the refusal of a request for figures; None if it is allowed."""
        if request.headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return _refusal("expected a request from this server's own page, got one from another site")
        return None

    def refuses_contents(self, request: HttpRequest) -> HttpResponse | None:
        """Return the refusal of a request for message contents; None if it is allowed.

        Contents require a loopback address, the password, or the token.
        """
        if self._is_local or self._has_login:
            return self.refuses_reader(request)
        if self._token is None:
            return _refusal(
                "message contents are hidden while the server accepts other hosts without a password; set "
                "metrics.username and metrics.password, or metrics.actions_token"
            )
        return self.refuses_actor(request)

    def refuses_actor(self, request: HttpRequest) -> HttpResponse | None:
        """Return the refusal of an action; None if it is allowed."""
        if (refusal := self.refuses_reader(request)) is not None:
            return refusal
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
            logger.warning("status page: %s refused: it came from a page of %.100r", request.path, origin)
            return _refusal("expected a request from this server's own page, got one from another site")
        if self._token is None:
            return _refusal("the page only reads; set metrics.actions_token to act on it")
        given = request.headers.get(TOKEN_HEADER, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._token):
            logger.warning("status page: %s refused: wrong token from %s", request.path, request.client)
            return _refusal("the token is wrong; it is the value of metrics.actions_token on the server")
        return None


def _refusal(problem: str) -> HttpResponse:
    return as_json({"problem": problem}, HTTPStatus.FORBIDDEN)
