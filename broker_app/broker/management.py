"""RabbitMQ's management API: a read-only client for queues, exchanges, bindings and counts."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from kombu.utils.url import parse_url

from broker_app.errors import BrokerError, NotOnBroker
from broker_app.wire.tls import verifying_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from email.message import Message
    from typing import IO

    import amqp

    from broker_app.broker.access import Broker

PORTS = {"amqp": ("http", 15_672), "amqps": ("https", 15_671)}
"""Scheme and port of the API by the broker URL's scheme (rabbitmq.com/docs/management, networking). For a broker
URL with TLS the password is never sent without TLS."""

TIMEOUT_SECONDS = 3.0
PAGE_SIZE = 500
"""The largest page that the API allows."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024

_COUNTS = (
    "columns=name,messages,messages_ready,messages_unacknowledged&disable_stats=true&enable_queue_totals=true"
)
"""Without statistics the API can answer for thousands of queues in one request."""

_NUMBERS = (
    "columns=name,arguments,messages,messages_ready,messages_unacknowledged,consumers,messages_by_priority,"
    "backing_queue_status.priority_lengths,message_stats.ack,message_stats.deliver_no_ack,message_stats.get_no_ack"
)

_FACTS = {
    "queues": "columns=name,arguments,type,durable,auto_delete,exclusive,policy,operator_policy,"
    "effective_policy_definition,members&disable_stats=true",
    "exchanges": "columns=name,arguments,type,durable,auto_delete,internal",
}
"""The query for each kind of object: its declaration and the policies that apply to it."""


_CURES = {
    HTTPStatus.UNAUTHORIZED: "give the broker's user the tag `monitoring`",
    HTTPStatus.FORBIDDEN: "give the broker's user the tag `monitoring`",
    HTTPStatus.NOT_FOUND: "correct the path of management_url, or create what is missing",
}
"""The cure for each status of an answer of the API; the other errors may pass."""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The message counts of a queue as of the broker's last count.

    Attributes:
        total: All messages: ready, unacknowledged, and those whose dead-lettering is not confirmed yet. None if
            unknown.
        ready: Messages ready for delivery.
        running: Messages that a consumer has not acknowledged yet.
    """

    total: int | None
    ready: int | None
    running: int | None = None

    @property
    def held(self) -> int:
        """The messages that are not ready, 0 if unknown."""
        return (self.total or 0) - (self.ready or 0)


class Management:
    """The management API of one broker.

    Args:
        broker_url: ``amqp://user:password@host:5672/vhost``.
        url: The API's URL, ``http://`` or ``https://``; None for the default port on the broker's host. The
            broker's user and password are used unless the URL has its own.
        context: The TLS context for ``https://``; None trusts the system's certificate authorities.
    """

    def __init__(self, broker_url: str, url: str | None = None, context: ssl.SSLContext | None = None) -> None:
        broker = parse_url(broker_url)
        scheme, port = PORTS["amqps" if broker_url.startswith("amqps") else "amqp"]
        place = urlsplit(url or f"{scheme}://{_bracketed(broker['hostname'] or '127.0.0.1')}:{port}")
        address = urlunsplit(place._replace(netloc=place.netloc.rpartition("@")[2]))
        self.url = address.rstrip("/").removesuffix("/api").rstrip("/")
        self._vhost = quote(broker["virtual_host"] or "/", safe="")
        user = unquote(place.username) if place.username else broker["userid"] or "guest"
        password = unquote(place.password or "") if place.username else broker["password"] or "guest"
        self._token = base64.b64encode(f"{user}:{password}".encode()).decode()
        # No proxies or redirects: the password is sent to the broker's host only.
        self._opener = build_opener(ProxyHandler({}), _NoRedirect(), HTTPSHandler(context=context))

    def effective_policy(self, queue: str) -> dict[str, Any]:
        """Return the effective policy definition of a queue (for example ``consumer-timeout`` in milliseconds, …).

        Raises:
            NotOnBroker: No such queue.
            BrokerError: No answer, or no access.
        """
        answer = self._get(f"/api/queues/{self._vhost}/{quote(queue, safe='')}")
        policy = answer.get("effective_policy_definition")
        return policy if isinstance(policy, dict) else {}  # some versions return [] for an empty one

    def queues(self, part: str) -> dict[str, dict[str, Any]]:
        """Return the queues whose names contain ``part``, with their arguments, type, durability, and so on.

        Raises:
            BrokerError: No answer or no access.
        """
        return {item["name"]: item for item in self._pages("queues", part)}

    def exchanges(self, part: str) -> dict[str, dict[str, Any]]:
        """Return the exchanges whose names contain ``part``; raises as `queues`."""
        return {item["name"]: item for item in self._pages("exchanges", part)}

    def bindings_from(self, exchange: str) -> list[dict[str, Any]]:
        """Return the bindings whose source is an exchange; an empty list if it does not exist.

        Raises:
            BrokerError: No answer or no access.
        """
        return self._bindings(f"/api/exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source")

    def bindings_to(self, queue: str) -> list[dict[str, Any]]:
        """Return the bindings of a queue except that of the default exchange; raises as `bindings_from`."""
        found = self._bindings(f"/api/queues/{self._vhost}/{quote(queue, safe='')}/bindings")
        return [binding for binding in found if binding["source"]]

    def queue_counts(self, part: str) -> dict[str, MessageCounts]:
        """Return the message counts of the queues whose names contain ``part``.

        A quorum queue counts every five seconds (``quorum_tick_interval``), and reports 0 before its first count.

        Raises:
            BrokerError: No answer or no access.
        """
        counts: dict[str, MessageCounts] = {}
        page, pages = 1, 1
        while page <= pages:
            query = f"page={page}&page_size={PAGE_SIZE}&name={quote(part, safe='')}&{_COUNTS}"
            answer = self._get(f"/api/queues/{self._vhost}?{query}")
            for item in answer["items"]:
                counts[item["name"]] = MessageCounts(
                    item.get("messages"), item.get("messages_ready"), item.get("messages_unacknowledged")
                )
            page, pages = page + 1, answer["page_count"]
        return counts

    def queue_numbers(self) -> list[dict[str, Any]]:
        """Return the messages, consumers and acknowledgements of all queues of the virtual host, in one call.

        Raises:
            BrokerError: No answer or no access.
        """
        answer = self._ask(f"/api/queues/{self._vhost}?{_NUMBERS}")
        return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []

    def _pages(self, kind: str, part: str) -> Iterator[dict[str, Any]]:
        """Yield the queues or exchanges whose names contain ``part``."""
        page, pages = 1, 1
        while page <= pages:
            query = f"page={page}&page_size={PAGE_SIZE}&name={quote(part, safe='')}&{_FACTS[kind]}"
            answer = self._get(f"/api/{kind}/{self._vhost}?{query}")
            yield from answer["items"]
            page, pages = page + 1, answer["page_count"]

    def _bindings(self, path: str) -> list[dict[str, Any]]:
        try:
            answer = self._ask(path)
        except NotOnBroker:
            return []
        return list(answer) if isinstance(answer, list) else []

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._ask(path)
        if not isinstance(answer, dict):
            raise BrokerError(f"management API {self.url}: expected an object, got {type(answer).__name__}")
        return answer

    def _ask(self, path: str) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise BrokerError(f"management_url: expected http:// or https://, got {self.url}")
        request = Request(f"{self.url}{path}", headers={"Authorization": f"Basic {self._token}"})  # noqa: S310 - checked
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                return json.loads(response.read(MAX_ANSWER_BYTES))
        except HTTPError as error:
            cls = NotOnBroker if error.code == HTTPStatus.NOT_FOUND else BrokerError
            is_denied = error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
            cure = "; give the broker's user the tag `monitoring`" if is_denied else ""
            if cls is NotOnBroker:
                cure = "; correct the path of management_url, or create what is missing"
            raise cls(f"management API {self.url}: expected 200, got {error.code} {error.reason}{cure}") from error
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise BrokerError(
                f"management API {self.url}: no answer ({reason}); set management_url to its address"
            ) from error


def management_of(app: Broker, connection: amqp.Connection | None = None) -> Management:
    """Return the API of the broker that ``connection`` reached; without one, of the first broker URL."""
    kombu = app.connection_for_write()
    urls = [str(url) for url in kombu.alt] or [kombu.as_uri(include_password=True)]
    host = connection.host if connection else ""
    reached = [url for url in urls if host.startswith(f"{parse_url(url)['hostname']}:")]
    place = app.settings.management_url
    tls = app.settings.tls
    files = (tls.ca_certificates, tls.certificate, tls.certificate_key)
    context = verifying_context(*files) if any(files) else None
    return Management((reached or urls)[0], place.get_secret_value() if place else None, context)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow no redirects."""
        del req, fp, code, msg, headers, newurl


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
