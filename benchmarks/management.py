"""The management API of the broker that is measured: virtual hosts, memory."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen
from uuid import uuid4

from benchmarks.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER_SECONDS = 60.0  # deleting a virtual host with 100,000 messages takes a while


@dataclass(frozen=True, slots=True)
class Management:
    """The API, used as the user of the AMQP URL.

    Attributes:
        url: ``http://host:port``.
        amqp_url: With user and password; its virtual host does not matter.
    """

    url: str
    amqp_url: str

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """Make a virtual host, hand out its AMQP URL, and delete it with all that is in it."""
        place = urlsplit(self.amqp_url)
        name = f"benchmark-{uuid4().hex[:12]}"
        self.call("PUT", f"vhosts/{name}")
        try:
            user = quote(unquote(place.username or "guest"), safe="")
            self.call("PUT", f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
            yield urlunsplit(place._replace(path=f"/{name}"))
        finally:
            self.call("DELETE", f"vhosts/{name}")

    def memory_bytes(self) -> int:
        """Return what the node counts as used, a few seconds old; a node that has just started counts first."""
        wait_for(
            lambda: "mem_used" in self.call("GET", "nodes")[0],
            _ANSWER_SECONDS,
            lambda: "mem_used in the management API, it is not there",
        )
        return int(self.call("GET", "nodes")[0]["mem_used"])

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """Call the API and return its answer, None for an empty one.

        Args:
            method: ``GET``, ``PUT``, ``DELETE``.
            path: Behind ``/api/``.
            content: Sent as JSON.

        Raises:
            urllib.error.URLError: No answer, or one that says no.
        """
        place = urlsplit(self.amqp_url)
        login = f"{unquote(place.username or 'guest')}:{unquote(place.password or 'guest')}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        }
        data = b"" if content is None else json.dumps(content).encode()
        request = Request(f"{self.url}/api/{path}", data or None, headers, method=method)  # noqa: S310 - our broker
        with urlopen(request, timeout=_ANSWER_SECONDS) as response:  # noqa: S310 - likewise
            answer = response.read()
        return json.loads(answer) if answer else None
