"""HTTP requests, responses and routes, as the server's handlers see them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BODY_BYTES = 64 * 1024
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request.

    Attributes:
        method: ``GET`` or ``POST``; ``HEAD`` is passed on as ``GET``.
        path: Path without the query string.
        query: Query parameters; the last value wins.
        headers: Headers, with names in lower case.
        body: At most `MAX_BODY_BYTES`.
        client: Address of the client.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client: str = ""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response.

    Attributes:
        body: Text, sent as UTF-8, or bytes.
        content_type: Value of the Content-Type header.
        status: HTTP status.
        headers: Additional headers.
    """

    body: str | bytes
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """An entry of the routing table.

    Attributes:
        answer: Handles the request.
        methods: Allowed methods.
        is_open: Whether the route needs no authentication.
    """

    answer: Callable[[HttpRequest], HttpResponse]
    methods: tuple[str, ...] = ("GET",)
    is_open: bool = False


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    """Return a JSON response."""
    return HttpResponse(json.dumps(value) + "\n", JSON, status)
