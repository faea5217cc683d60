"""The tests' own network faults."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from ports import free_port
from proxy import TcpProxy, Way
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    """Return a proxy to a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(end: socket.socket) -> None:
        with end:
            try:
                while data := end.recv(1024):
                    end.sendall(data)
            except ConnectionResetError:
                return

    def serve() -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(end,), daemon=True).start()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with TcpProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    server.join()


def connect(proxy: TcpProxy) -> socket.socket:
    """Return a connection that has sent something and got it back."""
    client = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
    if not proxy._frozen:
        assert ask(client, b"hello") == b"hello"
    return client


def ask(client: socket.socket, data: bytes) -> bytes:
    """Send and receive."""
    client.sendall(data)
    return client.recv(1024)


def hears_nothing(client: socket.socket) -> bool:
    """Return whether nothing comes within a moment, neither data nor an end."""
    client.settimeout(0.2)
    try:
        client.recv(1024)
    except TimeoutError:
        return True
    finally:
        client.settimeout(60)
    return False


def test_a_connection_is_cut_while_it_carries() -> None:
    """The thread that carries may just then be counting a round trip."""
    counting, is_cut = threading.Event(), threading.Event()

    class Slow(TcpProxy):
        """Counts only once the connection is being cut."""

        def _count(self) -> None:
            counting.set()
            is_cut.wait(60)
            super()._count()

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Slow("127.0.0.1", server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client,
    ):
        client.sendall(b"x")
        assert counting.wait(60)
        (link,) = wait_until(lambda: proxy._links, 30, "the connection")
        cutting = threading.Thread(target=proxy.cut, daemon=True)
        cutting.start()
        wait_until(lambda: link._is_cut, 30, "the cut to begin")
        is_cut.set()
        cutting.join(60)
        assert not cutting.is_alive()


def test_carries(proxy: TcpProxy) -> None:
    """Without a fault all bytes arrive, both ways, and so does the end."""
    with connect(proxy) as client:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    wait_until(lambda: proxy.open_links == 0, 30, "the link to end")


def test_cut(proxy: TcpProxy) -> None:
    """A cut resets open connections at once, and lets new ones through."""
    with connect(proxy) as old:
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        connect(proxy).close()


def test_freeze_and_thaw(proxy: TcpProxy) -> None:
    """A frozen connection delivers nothing and stays open; thawed, it delivers the data that was held back."""
    with connect(proxy) as client:
        proxy.freeze()
        client.sendall(b"later")
        assert hears_nothing(client)
        proxy.thaw()
        assert client.recv(1024) == b"later"


@pytest.mark.parametrize("way", list(Way))
def test_freeze_one_way(proxy: TcpProxy, way: Way) -> None:
    """Frozen in one direction only, a question or its answer is held back until it is thawed."""
    with connect(proxy) as client:
        proxy.freeze(way)
        client.sendall(b"late")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(4)
        client.settimeout(60)
        proxy.thaw()
        assert client.recv(4) == b"late"


def test_freeze_hides_the_end(proxy: TcpProxy) -> None:
    """The server behind a frozen connection does not learn that the client has gone."""
    client = connect(proxy)
    proxy.freeze()
    client.close()
    assert proxy.open_links == 1
    proxy.cut()
    assert proxy.open_links == 0


def test_freeze_new_too(proxy: TcpProxy) -> None:
    """A new connection is a black hole as well, unless only the old ones were asked for."""
    proxy.freeze()
    with connect(proxy) as client:
        client.sendall(b"?")
        assert hears_nothing(client)
    proxy.freeze(new_too=False)
    connect(proxy).close()


def test_cut_of_a_full_connection(proxy: TcpProxy) -> None:
    """A connection whose reader has stopped can be cut."""
    with connect(proxy) as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 50_000_000)  # comes back, and is not read
        proxy.cut()
        assert proxy.open_links == 0


def test_close(proxy: TcpProxy) -> None:
    """After close nothing listens."""
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_no_server() -> None:
    """A proxy to a target that is down resets its clients, so that they see a broker that is down."""
    port = free_port()
    with TcpProxy("127.0.0.1", port) as proxy, pytest.raises(ConnectionResetError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=60).recv(1)


def test_url() -> None:
    """A URL keeps its user, password and virtual host on the way through the proxy."""
    with TcpProxy.to("amqp://u:p@127.0.0.1:5672/v") as proxy:
        assert proxy.url("amqp://u:p@127.0.0.1:5672/v") == f"amqp://u:p@127.0.0.1:{proxy.port}/v"
