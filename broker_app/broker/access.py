"""Access to the broker: the role that every room takes, and short-lived connections."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import amqp
from amqp import exceptions as amqp_errors

from broker_app.errors import BrokerError, BrokerRefused, NotOnBroker
from broker_app.wire.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu.connection import Connection

    from broker_app.settings import Settings


class Broker(Protocol):
    """The role of an app below the app: settings and connections, nothing else. `BrokerApp` fills it.

    Attributes:
        main: The app's name, None where it has none.
        settings: The validated settings.
    """

    main: str | None

    @property
    def settings(self) -> Settings:
        """The validated settings; reads them on first use."""

    def connection_for_write(self, *args: Any, **options: Any) -> Connection:
        """Return a new connection, not open yet; the arguments are Celery's."""


@contextmanager
def connect(app: Broker) -> Iterator[amqp.Connection]:
    """Open a connection for a few calls, bounded in time, and close it.

    Raises:
        BrokerRefused: Wrong credentials.
        NotOnBroker: No such virtual host, or no access to it.
        BrokerError: No broker answers there, or what answers is no AMQP broker.
    """
    connection = app.connection_for_write()
    where = connection.as_uri()
    try:
        connection.ensure_connection(max_retries=max(0, len(connection.alt) - 1), reraise_as_library_errors=False)
    except amqp_errors.AccessRefused as error:
        raise BrokerRefused(f"{where}: the broker refused the user or password; correct broker_url") from error
    except amqp_errors.NotAllowed as error:
        raise NotOnBroker(f"{where}: {error.reply_text}; correct broker_url or create the virtual host") from error
    except (*connection.connection_errors, amqp_errors.AMQPError) as error:
        raise BrokerError(
            f"{where}: no AMQP broker answers there ({error_text(error)}); start it or correct broker_url"
        ) from error
    with connection, cut_when_interrupted(connection.connection) as opened:
        yield opened


@contextmanager
def cut_when_interrupted(connection: amqp.Connection) -> Iterator[amqp.Connection]:
    """Close the socket without a word at Ctrl-C.

    That may come in the middle of a frame; what is read then makes no sense, and the answer to a polite close
    would be waited for without end.
    """
    try:
        yield connection
    except (KeyboardInterrupt, SystemExit):
        connection.collect()
        raise
