"""A broker as the tests see it: its management API, and virtual hosts of their own."""

from __future__ import annotations

import base64
import json
import secrets
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANAGEMENT_PORT = 15672
_SERVER_ERROR = 500
_ANSWER_SECONDS = 60
_CLOSE_SECONDS = 30


class Management:
    """The management API. Its statistics are a few seconds old: wait for what you expect.

    Args:
        url: Where it is, without user and password.
        username: A user with the tag administrator.
        password: The user's password.
    """

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url.rstrip("/")
        self.username = username
        token = base64.b64encode(f"{username}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through an HTTP proxy

    @classmethod
    def of(cls, amqp_url: str, management_url: str | None) -> Self:
        """Return the API of the broker at ``amqp_url``: on its default port, unless ``management_url`` is known.

        User and password are those in ``management_url`` if it has any, else those in ``amqp_url``.
        """
        broker = urlsplit(amqp_url)
        place = urlsplit(management_url or f"http://{broker.hostname}:{_MANAGEMENT_PORT}")
        login = place if place.username else broker
        username, password = unquote(login.username or "guest"), unquote(login.password or "guest")
        bare = place._replace(netloc=place.netloc.rpartition("@")[2])
        return cls(urlunsplit(bare), username, password)

    def get(self, path: str) -> Any:
        """Return what is at ``path``, which starts after ``/api/``."""
        return self._call("GET", path)

    def put(self, path: str, body: object = None) -> Any:
        """Create or replace what is at ``path``."""
        return self._call("PUT", path, {} if body is None else body)

    def post(self, path: str, body: object) -> Any:
        """POST to ``path``: add something, or start an action."""
        return self._call("POST", path, body)

    def delete(self, path: str) -> None:
        """Delete what is at ``path``."""
        self._call("DELETE", path)

    def queue(self, vhost: str, name: str) -> dict[str, Any]:
        """Return all that is known of a queue."""
        found: dict[str, Any] = self.get(f"queues/{quote(vhost, safe='')}/{quote(name, safe='')}")
        return found

    def queue_depth(self, vhost: str, name: str) -> int | None:
        """Return its messages, ready and unacknowledged; None as long as none were counted."""
        depth: int | None = self.queue(vhost, name).get("messages")
        return depth

    def connections(self, vhost: str) -> list[dict[str, Any]]:
        """Return the open connections to a virtual host."""
        found: list[dict[str, Any]] = self.get(f"vhosts/{quote(vhost, safe='')}/connections")
        return found

    def close_connections_of(self, url: str) -> None:
        """Close all connections of a URL's user; unlike the list of connections this is never stale."""
        path = f"connections/username/{quote(urlsplit(url).username or 'guest', safe='')}"
        wait_until(lambda: self._is_closed(path), _CLOSE_SECONDS, f"{path} to be closed")

    def close_connection(self, name: str) -> None:
        """Close a connection, as an operator would."""
        self.delete(f"connections/{quote(name, safe='')}")

    def _is_closed(self, path: str) -> bool:
        """Return whether all there is was closed; RabbitMQ 3.10 fails if one of them is just ending by itself."""
        try:
            self.delete(path)
        except urllib.error.HTTPError as error:
            if error.code < _SERVER_ERROR:
                raise
            return False
        return True

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the URL is the test broker's
            f"{self.url}/api/{path}", data, self._headers, method=method
        )
        try:
            with self._opener.open(request, timeout=_ANSWER_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            error.add_note(f"{method} {path}: {error.read().decode(errors='replace')}")
            raise
        return json.loads(text) if text else None


@contextmanager
def virtual_host(management: Management, amqp_url: str, prefix: str) -> Iterator[str]:
    """Make a virtual host with a name of its own, yield its AMQP URL, and delete it with all that is in it."""
    name = f"{prefix}-{secrets.token_hex(4)}"
    management.put(f"vhosts/{name}")
    try:
        user = quote(management.username, safe="")
        management.put(f"permissions/{name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        yield urlunsplit(urlsplit(amqp_url)._replace(path=f"/{name}"))
    finally:
        management.delete(f"vhosts/{name}")


def vhost_of(amqp_url: str) -> str:
    """Return the name of the virtual host that a URL leads to."""
    return unquote(urlsplit(amqp_url).path[1:]) or "/"
