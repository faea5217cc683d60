"""What RabbitMQ's management API tells, where it answers: it is only read."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from kombu.utils.url import parse_url

from broker_app.errors import BrokerError, NotOnBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message
    from typing import IO

    import amqp

    from broker_app.broker.access import Broker

PORTS = {"amqp": ("http", 15_672), "amqps": ("https", 15_671)}
"""Scheme and port of the API by the broker URL's scheme (rabbitmq.com/docs/management, networking). A broker that
is asked over TLS is never sent its password without it."""

TIMEOUT_SECONDS = 3.0
PAGE_SIZE = 500
"""The most that the API gives in one page."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024

_COUNTS = (
    "columns=name,messages,messages_ready,messages_unacknowledged&disable_stats=true&enable_queue_totals=true"
)
"""Without its statistics the API answers for thousands of queues in one go."""

_NUMBERS = (
    "columns=name,arguments,messages,messages_ready,messages_unacknowledged,consumers,messages_by_priority,"
    "backing_queue_status.priority_lengths,message_stats.ack,message_stats.deliver_no_ack,message_stats.get_no_ack"
)

_FACTS = {
    "queues": "columns=name,arguments,type,durable,auto_delete,exclusive,policy,operator_policy,"
    "effective_policy_definition,members&disable_stats=true",
    "exchanges": "columns=name,arguments,type,durable,auto_delete,internal",
}
"""What is asked of each: what it was declared with, and which policies apply to it."""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The messages of a queue as the broker last counted them.

    Attributes:
        total: All: those that wait, that a consumer holds, and that a dead-letter exchange has not taken yet. None
            if nobody can tell.
        ready: Those that wait.
        running: Those that a consumer holds.
    """

    total: int | None
    ready: int | None
    running: int | None = None

    @property
    def held(self) -> int:
        """Those that do not wait, 0 if nobody can tell."""
        return (self.total or 0) - (self.ready or 0)


class Management:
    """The API of one broker.

    Args:
        broker_url: ``amqp://user:password@host:5672/vhost``.
        url: Where the API is, ``http://`` or ``https://``; None for the usual port of the broker's host. Without
            a user and password in it, those of the broker are used.
        context: How its certificate is verified over ``https://``; None is by the system's authorities.
    """

    def __init__(self, broker_url: str, url: str | None = None, context: ssl.SSLContext | None = None) -> None:
        broker = parse_url(broker_url)
        scheme, port = PORTS["amqps" if broker_url.startswith("amqps") else "amqp"]
        place = urlsplit(url or f"{scheme}://{_bracketed(broker['hostname'] or '127.0.0.1')}:{port}")
        self.url = urlunsplit(place._replace(netloc=place.netloc.rpartition("@")[2])).rstrip("/")
        self._vhost = quote(broker["virtual_host"] or "/", safe="")
        user = unquote(place.username) if place.username else broker["userid"] or "guest"
        password = unquote(place.password or "") if place.username else broker["password"] or "guest"
        self._token = base64.b64encode(f"{user}:{password}".encode()).decode()
        # No proxy and no redirection: the password goes to the broker's host or nowhere.
        self._opener = build_opener(ProxyHandler({}), _NoRedirect(), HTTPSHandler(context=context))

    def effective_policy(self, queue: str) -> dict[str, Any]:
        """Return what policies set on a queue, by their keys (``consumer-timeout`` in milliseconds, …).

        Raises:
            NotOnBroker: No such queue.
            BrokerError: No answer, or no access.
        """
        answer = self._get(f"/api/queues/{self._vhost}/{quote(queue, safe='')}")
        policy = answer.get("effective_policy_definition")
        return policy if isinstance(policy, dict) else {}  # an empty one is [] on some versions

    def queues(self, part: str) -> dict[str, dict[str, Any]]:
        """Return what is known of the queues whose names contain ``part``: arguments, type, durable, ….

        Raises:
            BrokerError: No answer or no access.
        """
        return {item["name"]: item for item in self._pages("queues", part)}

    def exchanges(self, part: str) -> dict[str, dict[str, Any]]:
        """Return what is known of the exchanges whose names contain ``part``; raises as `queues`."""
        return {item["name"]: item for item in self._pages("exchanges", part)}

    def bindings_from(self, exchange: str) -> list[dict[str, Any]]:
        """Return the bindings whose source is an exchange, none if it is not there.

        Raises:
            BrokerError: No answer or no access.
        """
        return self._bindings(f"/api/exchanges/{self._vhost}/{quote(exchange, safe='')}/bindings/source")

    def bindings_to(self, queue: str) -> list[dict[str, Any]]:
        """Return the bindings of a queue but that of the default exchange; as `bindings_from`."""
        found = self._bindings(f"/api/queues/{self._vhost}/{quote(queue, safe='')}/bindings")
        return [binding for binding in found if binding["source"]]

    def queue_counts(self, part: str) -> dict[str, MessageCounts]:
        """Return what the broker counted in the virtual host's queues whose names contain ``part``.

        A quorum queue counts every five seconds (``quorum_tick_interval``), and is 0 before it has counted.

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
            raise cls(f"management API {self.url}: expected 200, got {error.code} {error.reason}") from error
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise BrokerError(f"management API {self.url}: no answer ({reason})") from error


def management_of(app: Broker, connection: amqp.Connection | None = None) -> Management:
    """Return the API of the broker that was reached, of several for fail-over; of the first if none was yet."""
    kombu = app.connection_for_write()
    urls = [str(url) for url in kombu.alt] or [kombu.as_uri(include_password=True)]
    host = connection.host if connection else ""
    reached = [url for url in urls if host.startswith(f"{parse_url(url)['hostname']}:")]
    place = app.settings.management_url
    tls = app.settings.tls
    context = ssl.create_default_context(cafile=str(tls.ca_certificates)) if tls.ca_certificates else None
    if context and tls.certificate:
        context.load_cert_chain(tls.certificate, tls.certificate_key)
    return Management((reached or urls)[0], place.get_secret_value() if place else None, context)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow none."""
        del req, fp, code, msg, headers, newurl


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
