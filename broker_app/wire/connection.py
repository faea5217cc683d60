"""A producer's connection: opened and used in a bounded time, and never shared with a forked process."""

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
    from collections.abc import Iterator, Sequence

    from broker_app.wire.url_file import UrlFile

_AMQP = frozenset({"amqp", "amqps", "pyamqp"})
"""kombu's names for py-amqp."""

SHORTEST_WAIT_SECONDS = 0.1
"""What an attempt is given when the deadline is there already: a time-out of 0 would mean none, or at once."""


LONGEST_PAUSE_SECONDS = 5
"""Between a worker's attempts to connect, each to all hosts; the first is 1 s, each further one a second more."""


CLOSE_SECONDS = 2.0
"""How long a farewell waits for the broker's answer: one with an alarm reads nothing from who has published."""


REFUSED_SECONDS = 1.0
"""How long a process does not try a refused login again: each call would ask the broker."""

_refused_logins: dict[
    tuple[Any, ...], tuple[float, str]
] = {}  # until when, on the clock of time.monotonic, and why


class PoolBusyError(amqp.AMQPError):
    """All connections of the pool stayed in use for as long as the call may wait."""


class _Ours:
    """What kombu's connections lack.

    Each host is verified by its own name: kombu writes the first host's name into the TLS options, which all
    connections share, and verifies every other host by it, so that a fail-over is refused. It also verifies
    ``localhost`` as 127.0.0.1.

    A farewell is bounded: kombu waits for the broker's answer without end.

    The URL is read anew for each connection if it stands in a file.
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
        """Return another one like this, not open yet."""
        return super().clone(**dict({"url_file": self._url_file}, **options))  # type: ignore[misc]  # kombu's

    def _establish_connection(self) -> Any:
        self._take_url()
        refuse_other_transports(None, self.transport_cls)
        shared, name = self.ssl, self.hostname
        if isinstance(shared, dict) and shared.get("server_hostname", "") is None:
            self.ssl = dict(shared, server_hostname=name or "localhost")
        try:
            return super()._establish_connection()  # type: ignore[misc]  # kombu's, of the classes below
        finally:
            self.ssl, self.hostname = shared, name

    def _take_url(self) -> None:
        """Use the URL that stands in the file now; of several hosts the first, if it is another than before."""
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


class BrokerConnection(_Ours, Connection):
    """What Celery connects with."""

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Connect, as kombu's, which pauses for up to 30 s between attempts: a worker shall be back sooner."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": LONGEST_PAUSE_SECONDS}
        connected: Connection = super().ensure_connection(*args, **(pauses | options))  # type: ignore[no-untyped-call]
        return connected

    def Pool(self, limit: int | None = None, **_options: Any) -> ConnectionPool:  # noqa: N802 - kombu's name
        """Return a pool of connections like this one."""
        return _Pool(self, limit)  # type: ignore[no-untyped-call]  # kombu's initializer


class _Pooled(_Ours, PooledConnection):
    """One of a pool. Each of its reads and writes is bounded: an alarm must not hold what uses it."""

    def _establish_connection(self) -> Any:
        self._take_url()
        login = (self.host, self.userid, self.password, self.virtual_host)
        until, reason = _refused_logins.get(login, (0.0, ""))
        if time.monotonic() < until:
            raise amqp.AccessRefused(reason)
        try:
            raw = super()._establish_connection()
        except amqp.AccessRefused as error:
            _refused_logins.clear()  # a process has one login, or few
            _refused_logins[login] = (time.monotonic() + REFUSED_SECONDS, error.reply_text)
            raise
        raw.sock.settimeout(_bound(self))
        return raw


class _Pool(ConnectionPool):
    def new(self) -> _Pooled:
        """Return another one, not open yet."""
        connection: Any = self.connection
        options = dict(connection._info(resolve=False), url_file=connection._url_file)  # noqa: SLF001 - as kombu's
        return _Pooled(self, **options)

    def acquire(self, block: bool = False, timeout: float | None = None) -> _Pooled:  # noqa: FBT001, FBT002 - kombu's
        """Return one that is free; kombu's producers and Celery's remote control would wait for it without end."""
        taken: _Pooled = super().acquire(block, _bound(self.connection) if timeout is None else timeout)  # type: ignore[no-untyped-call]
        return taken


class _Busy(BrokerConnection):
    """Stands for the connection that a call did not get."""

    def ensure_connection(self, *_args: Any, **_options: Any) -> Connection:
        raise PoolBusyError(
            "all connections of the pool stayed in use until the time-out; raise publish.pool_limit, or look for "
            "what holds them"
        )


@contextmanager
def pooled(pool: ConnectionPool, deadline: float) -> Iterator[Connection]:
    """Take a connection out of a pool, as long as a block lasts.

    Args:
        pool: The app's.
        deadline: On the clock of `time.monotonic`; if none is free until then, the block gets one that cannot be
            opened (`PoolBusyError`): what cannot be sent is refused, or spooled, where it would be sent.
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
    """Return the bound of a read or write, in seconds: that of Celery's ``broker_transport_options``."""
    seconds: float | None = (connection.transport_options or {}).get("write_timeout")
    return seconds


def refuse_other_transports(hostname: str | Sequence[str] | None, transport: object) -> None:
    """Refuse what is no AMQP: kombu's other transports know no confirms and no dead letters.

    Raises:
        SettingsError: With the scheme.
    """
    urls = hostname.split(";") if isinstance(hostname, str) else hostname or ()
    schemes = [url.partition("://")[0].partition("+")[0].strip() for url in urls if "://" in url]
    other = next((each for each in [*schemes, transport] if each and each not in _AMQP), None)
    if other is not None:
        cure = "set it to a RabbitMQ; tests without one set task_always_eager (docs/testing.md)"
        with shown_in_one_line():
            raise SettingsError([f"broker_url: expected amqp:// or amqps://, got {other}://; {cure}"])


def open_connection(connection: Any, timeout_seconds: float, deadline: float) -> None:
    """Connect if need be, once to each host that the URL names; no other is tried after the deadline.

    Args:
        connection: A kombu connection.
        timeout_seconds: Bound of one attempt.
        deadline: On the clock of `time.monotonic`.

    Raises:
        amqp.AMQPError, OSError: The last host's answer.
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
    """Bound each read and write, also of calls that know no time-out (open a channel, declare).

    A broker with an alarm stops reading, and one that was cut off says nothing: without a bound either would
    hold the caller for ever.
    """
    sock = connection.sock
    usual = sock.gettimeout()
    sock.settimeout(_left(deadline))
    try:
        yield
    finally:
        if sock.fileno() >= 0:  # not closed meanwhile
            sock.settimeout(usual)


def discard(connection: Any) -> None:
    """Drop a connection without a word to the broker, which may not be listening."""
    if connection.connected:
        connection.connection.sock.settimeout(SHORTEST_WAIT_SECONDS)  # TLS would wait for the peer's farewell
    connection.collect()


def _leave_to_parent(connection: Any) -> None:
    """Let go of a connection that was opened before a fork: closed here, but not shut down for the parent too."""
    transport = connection.connection.transport
    transport.sock.close()
    transport.sock = None  # py-amqp would shut it down, which ends it in both processes
    connection.collect()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), SHORTEST_WAIT_SECONDS)
