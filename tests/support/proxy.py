"""A network between a client and a broker that can be slow, cut, or turned into a black hole."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from enum import Enum, auto
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

from ending import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65_536
_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST instead of FIN (socket(7))


class Way(Enum):
    """A direction of a connection."""

    TO_SERVER = auto()
    TO_CLIENT = auto()


class TcpProxy:
    """Carries TCP connections from a port on 127.0.0.1 to a target, until told otherwise.

    Args:
        host: The target's host.
        port: The target's port.
        latency_seconds: How long what is sent takes in either direction: half a round trip.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        round_trips: Number of times a client has sent data after receiving some, since it was set to 0. Data sent
            without waiting for an answer counts once; connecting does not count.
    """

    def __init__(self, host: str, port: int, latency_seconds: float = 0.0) -> None:
        self.round_trips = 0
        self._latency_seconds = latency_seconds
        self._target = (host, port)
        self._listener = socket.create_server((_LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._frozen: frozenset[Way] = frozenset()
        self._is_closed = False
        self._acceptor = threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True)
        self._acceptor.start()

    @classmethod
    def to(cls, amqp_url: str, latency_seconds: float = 0.0) -> Self:
        """Return a proxy to the broker at ``amqp_url``."""
        place = urlsplit(amqp_url)
        return cls(place.hostname or _LOOPBACK, place.port or 5672, latency_seconds)

    def url(self, amqp_url: str) -> str:
        """Return ``amqp_url`` with the way through this proxy."""
        place = urlsplit(amqp_url)
        login, at, _ = place.netloc.rpartition("@")
        return urlunsplit(place._replace(netloc=f"{login}{at}{_LOOPBACK}:{self.port}"))

    @property
    def open_links(self) -> int:
        """Number of open connections, black holes included."""
        with self._lock:
            return sum(link.is_open for link in self._links)

    def cut(self) -> None:
        """Reset every connection, at both ends; a new one is carried."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:  # without the lock, for which their threads may wait
            link.cut()

    def freeze(self, *ways: Way, new_too: bool = True) -> None:
        """Make every connection a black hole: nothing passes, and neither end learns that the other has gone.

        Args:
            *ways: Only in these directions; none for both.
            new_too: Whether connections that are made from now on are black holes as well.
        """
        with self._lock:
            frozen = frozenset(ways or Way)
            self._frozen = frozen if new_too else frozenset()
            for link in self._links:
                link.freeze(frozen)

    def thaw(self) -> None:
        """Let everything pass again, what was held back first."""
        with self._lock:
            self._frozen = frozenset()
            for link in self._links:
                link.thaw()

    def close(self) -> None:
        """Reset every connection and listen no more."""
        with self._lock:
            self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._listener.close()
        joined(self._acceptor)
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._carry(client)

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            _close(client, is_abort=True)  # the client sees what it would see without a proxy: no broker
            return
        server.settimeout(None)
        with self._lock:
            link = _Link(client, server, self._frozen, self._latency_seconds, self._count)
            self._links = [*(old for old in self._links if old.is_open), link]
            is_closed = self._is_closed
        if is_closed:
            link.cut()

    def _count(self) -> None:
        with self._lock:
            self.round_trips += 1


class _Link:
    """One connection: two sockets, and a thread for each direction; on a slow link two of them."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        frozen: frozenset[Way],
        latency_seconds: float,
        on_round_trip: Callable[[], None],
    ) -> None:
        self._client, self._server = client, server
        self._latency_seconds = latency_seconds
        self._on_round_trip = on_round_trip
        self._counted_at = 0.0
        self._is_told = True  # whether the client has heard of the server since it last sent something
        self._wake, self._waker = socket.socketpair()
        self._flowing = {way: threading.Event() for way in Way}
        for way in frozenset(Way) - frozen:
            self._flowing[way].set()
        self._is_cut = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def freeze(self, ways: frozenset[Way]) -> None:
        for way in ways:
            self._flowing[way].clear()

    def thaw(self) -> None:
        for flowing in self._flowing.values():
            flowing.set()

    def cut(self) -> None:
        self._stop()
        joined(self._thread)

    def _stop(self) -> None:
        self._is_cut = True
        self.thaw()
        with contextlib.suppress(OSError):
            self._waker.send(b"!")  # not read by anybody: each wait from now on ends at once

    def _run(self) -> None:
        back = threading.Thread(target=self._pump, args=(self._server, self._client, Way.TO_CLIENT), daemon=True)
        back.start()
        self._pump(self._client, self._server, Way.TO_SERVER)
        back.join()
        for end in (self._client, self._server):
            _close(end, is_abort=self._is_cut)
        self._wake.close()
        self._waker.close()

    def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        """Carry one direction. An end of file or a reset is carried too, but not while it is frozen."""
        try:
            for data in self._late(source) if self._latency_seconds else self._arriving(source):
                self._flowing[way].wait()
                if not data:
                    return sink.shutdown(socket.SHUT_WR)
                if way is Way.TO_CLIENT:
                    self._is_told = True
                left = data
                while left and self._wait(sink, select.POLLOUT):
                    left = left[sink.send(left, socket.MSG_DONTWAIT) :]
        except OSError:
            self._flowing[way].wait()
            self._stop()

    def _arriving(self, source: socket.socket) -> Iterator[bytes]:
        """Yield what comes, until the link is cut; at the end of file nothing."""
        while self._wait(source, select.POLLIN):
            data = source.recv(_CHUNK_BYTES)
            if source is self._client and self._is_told and data:
                self._note_round_trip()
            yield data

    def _note_round_trip(self) -> None:
        """Count a round trip, unless the answer to the last request is not possible yet."""
        now, self._is_told = time.monotonic(), False
        if now - self._counted_at >= 2 * self._latency_seconds:
            self._counted_at = now
            self._on_round_trip()

    def _late(self, source: socket.socket) -> Iterator[bytes]:
        """Yield what comes after the latency of the link; what follows meanwhile is as late, not later."""
        on_way: SimpleQueue[tuple[float, bytes | OSError | None]] = SimpleQueue()

        def read() -> None:
            try:
                for data in self._arriving(source):
                    on_way.put((time.monotonic(), data))
                on_way.put((0.0, None))
            except OSError as error:
                on_way.put((time.monotonic(), error))

        threading.Thread(target=read, daemon=True).start()
        while (came := on_way.get())[1] is not None:
            time.sleep(max(0.0, came[0] + self._latency_seconds - time.monotonic()))
            if isinstance(came[1], OSError):
                raise came[1]
            yield came[1]

    def _wait(self, end: socket.socket, event: int) -> bool:
        """Wait until ``end`` is ready, and return False instead if the link was cut."""
        poll = select.poll()
        poll.register(end, event)
        poll.register(self._wake, select.POLLIN)
        poll.poll()
        return not self._is_cut


def _close(end: socket.socket, *, is_abort: bool) -> None:
    if is_abort:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    end.close()
