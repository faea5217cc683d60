"""Broker connections: opened and used within a time limit, and never shared with a forked process."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import amqp
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.exceptions import LimitExceeded
from kombu.utils.url import parse_url

from broker_app.errors import SettingsError
from broker_app.settings.refusal import shown_in_one_line
from broker_app.wire.confirm_channel import ConfirmChannel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker_app.wire.url_file import UrlFile

_AMQP = frozenset({"amqp", "amqps", "pyamqp"})
"""The transport names of kombu that use py-amqp."""

SHORTEST_WAIT_SECONDS = 0.1
"""Minimum time-out of an attempt, even past the deadline: 0 would mean no time-out, or an immediate one."""


LONGEST_PAUSE_SECONDS = 5
"""Maximum pause between a worker's connection attempts, each to all hosts. It starts at 1 s and grows by 1 s."""


CLOSE_SECONDS = 2.0
"""Time-out for closing a connection: a broker with an alarm does not read from publishing connections."""


REFUSED_SECONDS = 1.0
"""Time before a process retries a refused login, so that not every call asks the broker again."""

_refused_logins: dict[
    tuple[Any, ...], tuple[float, str]
] = {}  # login: (retry after, on the clock of time.monotonic; reason)


class PoolBusyError(amqp.AMQPError):
    """All connections of the pool stayed in use until the call timed out."""


class _ConnectionFixes:
    """Mixin with fixes for kombu's connections.

    Each host's certificate is verified against its own name. kombu writes the first host's name into the TLS
    options shared by all connections and verifies every other host against it, so that fail-over is refused. It
    also verifies ``localhost`` as 127.0.0.1.

    Closing has a time limit; kombu waits for the broker's answer forever.

    If the URL comes from a file, the file is read again for each connection.
    """

    ssl: Any
    hostname: str | None
    transport_cls: Any
    alt: list[str]
    cycle: Any
    failover_strategy: Any
    _init_params: Any
    _initial_params: dict[str, Any]
    connected: bool
    _connection: Any

    def __init__(self, *args: Any, url_file: UrlFile | None = None, **options: Any) -> None:
        self._url_file, self._url = url_file, ""
        super().__init__(*args, **options)

    def clone(self, **options: Any) -> Any:
        """Return an unopened copy of this connection."""
        return super().clone(**dict({"url_file": self._url_file}, **options))  # type: ignore[misc]  # kombu's

    def _establish_connection(self) -> Any:
        self._reload_url()
        refuse_other_transports(None, self.transport_cls)
        shared, name = self.ssl, self.hostname
        if isinstance(shared, dict) and shared.get("server_hostname", "") is None:
            self.ssl = dict(shared, server_hostname=name or "localhost")
        try:
            return super()._establish_connection()  # type: ignore[misc]  # kombu's, of the classes below
        finally:
            self.ssl, self.hostname = shared, name

    def _reload_url(self) -> None:
        """Use the file's current URL; if it has changed, start with its first host."""
        if self._url_file is None or (url := self._url_file.read()) == self._url:
            return
        self._url, hosts = url, url.split(";")
        self._init_params(**dict(self._initial_params, **parse_url(hosts[0])))
        if len(hosts) > 1:
            self.alt, self.cycle = hosts, self.failover_strategy(hosts)
            next(self.cycle)

    def _close(self) -> None:
        if self.connected:
            self._connection.sock.settimeout(CLOSE_SECONDS)
        super()._close()  # type: ignore[misc]  # as above


class BrokerConnection(_ConnectionFixes, Connection):
    """The connection class used by Celery."""

    _on_wait: Callable[[], object] | None = None

    @contextmanager
    def calling_while_waiting(self, on_wait: Callable[[], object]) -> Iterator[None]:
        """Call a function at each attempt to connect in the block, and once a second between attempts."""
        self._on_wait = on_wait
        try:
            yield
        finally:
            self._on_wait = None

    def ensure_connection(
        self, *args: Any, callback: Callable[[], object] | None = None, **options: Any
    ) -> Connection:
        """Connect like kombu, but with shorter pauses between attempts: kombu's grow to 30 s."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": LONGEST_PAUSE_SECONDS}
        calls = [call for call in (self._on_wait, callback) if call is not None]

        def call_all() -> None:
            for call in calls:
                call()

        options["callback"] = call_all if calls else None
        connected: Connection = super().ensure_connection(*args, **(pauses | options))  # type: ignore[no-untyped-call]
        return connected

    def Pool(self, limit: int | None = None, **_options: Any) -> ConnectionPool:  # noqa: N802 - kombu's name
        """Return a pool of connections like this one."""
        return _Pool(self, limit)  # type: ignore[no-untyped-call]  # kombu's initializer


class _Pooled(_ConnectionFixes, PooledConnection):
    """A pooled connection whose reads and writes time out, so that an alarm cannot block its user."""

    def _establish_connection(self) -> Any:
        self._reload_url()
        login = (self.host, self.userid, self.password, self.virtual_host)
        until, reason = _refused_logins.get(login, (0.0, ""))
        if time.monotonic() < until:
            raise amqp.AccessRefused(reason)
        try:
            raw = super()._establish_connection()
        except amqp.AccessRefused as error:
            _refused_logins.clear()  # a process has only one login, or a few
            _refused_logins[login] = (time.monotonic() + REFUSED_SECONDS, error.reply_text)
            raise
        raw.sock.settimeout(_bound(self))
        return raw


class _Pool(ConnectionPool):
    def new(self) -> _Pooled:
        """Return a new, unopened connection."""
        connection: Any = self.connection
        options = dict(connection._info(resolve=False), url_file=connection._url_file)  # noqa: SLF001 - as kombu's
        return _Pooled(self, **options)

    def acquire(self, block: bool = False, timeout: float | None = None) -> _Pooled:  # noqa: FBT001, FBT002 - kombu's
        """Return a free connection; kombu's producers and Celery's remote control would wait for one forever."""
        taken: _Pooled = super().acquire(block, _bound(self.connection) if timeout is None else timeout)  # type: ignore[no-untyped-call]
        return taken


class _Busy(BrokerConnection):
    """Placeholder for a connection that the pool could not provide."""

    def ensure_connection(self, *_args: Any, **_options: Any) -> Connection:
        raise PoolBusyError(
            "all connections of the pool stayed in use until the time-out; raise publish.pool_limit, or find "
            "the code that holds them"
        )


@contextmanager
def pooled(pool: ConnectionPool, deadline: float) -> Iterator[Connection]:
    """Take a connection from the pool for the duration of the block.

    Args:
        pool: The app's pool.
        deadline: On the clock of `time.monotonic`. If no connection is free by then, the block gets a placeholder
            that raises `PoolBusyError` when used, so that the publisher can refuse or spool the message.
    """
    try:
        connection = pool.acquire(block=True, timeout=_left(deadline))
    except LimitExceeded:
        yield _Busy()
        return
    try:
        yield connection
    finally:
        connection.release()


def _bound(connection: Any) -> float | None:
    """Return the time-out of a read or write in seconds, from Celery's ``broker_transport_options``."""
    seconds: float | None = (connection.transport_options or {}).get("write_timeout")
    return seconds


def refuse_other_transports(hostname: str | Sequence[str] | None, transport: object) -> None:
    """Refuse transports other than AMQP: they have no publisher confirms and no dead-lettering.

    Raises:
        SettingsError: Names the refused scheme.
    """
    urls = hostname.split(";") if isinstance(hostname, str) else hostname or ()
    schemes = [url.partition("://")[0].partition("+")[0].strip() for url in urls if "://" in url]
    other = next((each for each in [*schemes, transport] if each and each not in _AMQP), None)
    if other is not None:
        cure = "set it to a RabbitMQ; tests without one set task_always_eager (docs/how-to/testing.md)"
        with shown_in_one_line():
            raise SettingsError([f"broker_url: expected amqp:// or amqps://, got {other}://; {cure}"])


def open_connection(connection: Any, timeout_seconds: float, deadline: float) -> None:
    """Connect if needed, trying each host of the URL once; no further host is tried after the deadline.

    Args:
        connection: A kombu connection.
        timeout_seconds: Time-out of one attempt.
        deadline: On the clock of `time.monotonic`.

    Raises:
        amqp.AMQPError, OSError: The error of the last host.
    """
    if connection.connected and ConfirmChannel.is_inherited(connection.connection):
        _leave_to_parent(connection)

    def limit(*_failure: object) -> None:
        connection.connect_timeout = min(timeout_seconds, _left(deadline))

    limit()
    connection.ensure_connection(
        errback=limit,
        max_retries=max(0, len(connection.alt) - 1),
        reraise_as_library_errors=False,
        timeout=_left(deadline),
    )


@contextmanager
def bounded(connection: amqp.Connection, deadline: float) -> Iterator[None]:
    """Set a time-out on each read and write, including calls without one of their own (open a channel, declare).

    A broker with an alarm stops reading, and one behind a broken network never answers: without a time-out, either
    would block the caller forever.
    """
    sock = connection.sock
    usual = sock.gettimeout()
    sock.settimeout(_left(deadline))
    try:
        yield
    finally:
        if sock.fileno() >= 0:  # still open
            sock.settimeout(usual)


def discard(connection: Any) -> None:
    """Drop a connection without a closing handshake, because the broker may not respond."""
    if connection.connected:
        connection.connection.sock.settimeout(SHORTEST_WAIT_SECONDS)  # TLS would wait for the peer's close_notify
    connection.collect()


def _leave_to_parent(connection: Any) -> None:
    """Release a connection inherited through a fork: close it here without shutting it down for the parent."""
    transport = connection.connection.transport
    transport.sock.close()
    transport.sock = None  # py-amqp would shut it down in both processes
    connection.collect()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), SHORTEST_WAIT_SECONDS)
