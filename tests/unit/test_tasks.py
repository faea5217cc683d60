"""The sample tasks, called directly: arithmetic, waiting, and downloads from a site that misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
from ports import free_port

from broker_app.app import app
from broker_app.errors import FetchError
from broker_app.tasks import add, fetch, mul, sleep, xsum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 1024
OK = b"HTTP/1.1 200 OK\r\n"
SHORT_SECONDS = "0.2"
_ABORT = struct.pack("ii", 1, 0)


class Site:
    """Answers each connection on 127.0.0.1 with the test's bytes, and remembers the requests.

    Attributes:
        asked: The paths, in their order.
    """

    def __init__(self, answer: Callable[[Site, socket.socket, str], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[str] = []
        self.is_over = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._talk, args=(client,), daemon=True))
            self._threads[-1].start()

    def _talk(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # who asked may have gone
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096) or b"\r\n\r\n"
            path = (head.decode().split() or ["", ""])[1]
            self.asked.append(path)
            self._answer(self, client, path)

    def close(self) -> None:
        """Stop answering, and wait for every thread."""
        self.is_over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def site() -> Iterator[Callable[[Callable[[Site, socket.socket, str], None]], Site]]:
    """Return what starts a site."""
    with contextlib.ExitStack() as open_sites:

        def start(answer: Callable[[Site, socket.socket, str], None]) -> Site:
            started = Site(answer)
            open_sites.callback(started.close)
            return started

        yield start


@pytest.fixture(autouse=True)
def _fresh_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let each test set its own limits: the app reads its settings once."""
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    app.__dict__.pop("settings", None)
    yield
    app.__dict__.pop("settings", None)


def _send(client: socket.socket, *parts: bytes) -> None:
    client.sendall(b"".join(parts))


def _whole(_site: Site, client: socket.socket, _path: str) -> None:
    _send(client, OK, b"Content-Length: %d\r\n\r\n" % len(BODY), BODY)


def _redirect(client: socket.socket, to: str) -> None:
    _send(client, b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: ", to.encode(), b"\r\n\r\n")


def _drip(site: Site, client: socket.socket, data: bytes) -> None:
    """Send a byte every 20 ms, until the end of the test."""
    for byte in data:
        client.sendall(bytes([byte]))
        if site.is_over.wait(0.02):
            return


# Arithmetic and waiting


def test_the_arithmetic_tasks_can_be_called_directly() -> None:
    """A task is a function too, as the seed documents show it."""
    assert (add(2, 3), mul(2, 3), xsum([1, 2, 3]), xsum([])) == (5, 6, 6, 0)


def test_sleep_returns_what_it_waited() -> None:
    """It waits no less than it was told."""
    started = time.monotonic()
    assert sleep(0.02) == 0.02
    assert time.monotonic() - started >= 0.02


@pytest.mark.parametrize("seconds", [-1, 3600.1, float("nan"), float("inf")])
def test_sleep_refuses_what_would_hold_a_worker(seconds: float) -> None:
    """The bound is in the message."""
    with pytest.raises(ValueError, match=r"sleep: seconds must be 0\.\.3600, got"):
        sleep(seconds)


# Downloads that work


def test_fetch_returns_the_facts_of_a_body(site: Callable[..., Site]) -> None:
    """Status, size, SHA-256 and seconds, and all of it is JSON."""
    url = site(_whole).url + "/a?b=c"
    facts = fetch(url)
    assert facts.pop("seconds") > 0
    digest = hashlib.sha256(BODY).hexdigest()
    assert facts == {"url": url, "status": 200, "bytes": len(BODY), "sha256": digest}
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    "head_and_body",
    [
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"Content-Length: 5\r\n\r\nabcde",
        b"Connection: close\r\n\r\nabcde",
    ],
)
def test_fetch_reads_a_body_however_its_end_is_told(site: Callable[..., Site], head_and_body: bytes) -> None:
    """By chunks, by its length, or by the end of the connection."""
    facts = fetch(site(lambda _site, client, _path: _send(client, OK, head_and_body)).url)
    assert (facts["bytes"], facts["sha256"]) == (5, hashlib.sha256(b"abcde").hexdigest())


def test_fetch_does_not_wait_for_a_connection_that_stays_open(site: Callable[..., Site]) -> None:
    """A body is whole when its length has come, though the server keeps the connection."""

    def keep(here: Site, client: socket.socket, _path: str) -> None:
        _send(client, OK, b"Content-Length: 5\r\n\r\nabcde")
        here.is_over.wait(20)

    assert fetch(site(keep).url)["bytes"] == 5


def test_fetch_takes_an_empty_body(site: Callable[..., Site]) -> None:
    """204 and nothing is an answer."""
    facts = fetch(site(lambda _site, client, _path: _send(client, b"HTTP/1.1 204 No Content\r\n\r\n")).url)
    assert (facts["status"], facts["bytes"]) == (204, 0)


def test_fetch_follows_redirects(site: Callable[..., Site]) -> None:
    """The URL in the result is the one that was asked for."""

    def answer(here: Site, client: socket.socket, path: str) -> None:
        _redirect(client, "/b") if path == "/a" else _whole(here, client, path)

    found = site(answer)
    assert fetch(f"{found.url}/a")["bytes"] == len(BODY)
    assert found.asked == ["/a", "/b"]


def test_fetch_takes_a_body_of_exactly_the_limit(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the setting's, and is itself within it."""
    monkeypatch.setenv("BROKER_APP_FETCH__MAX_BYTES", str(len(BODY)))
    assert fetch(site(_whole).url)["bytes"] == len(BODY)


# Downloads that do not


def test_fetch_refuses_a_body_over_the_limit(site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops reading there: the text names the setting."""
    monkeypatch.setenv("BROKER_APP_FETCH__MAX_BYTES", str(len(BODY) - 1))
    with pytest.raises(FetchError, match=rf"over {len(BODY) - 1} bytes \(fetch\.max_bytes\)"):
        fetch(site(_whole).url)


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Internal Server Error", b"304 Not Modified"])
def test_fetch_refuses_a_status_that_is_no_success(site: Callable[..., Site], status: bytes) -> None:
    """The status is in the text."""
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(FetchError, match=status.decode()):
        fetch(site(lambda _site, client, _path: _send(client, answer)).url)


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://127.0.0.1/", "http://u:pw@127.0.0.1:1/"]
)
def test_fetch_follows_no_redirect_away_from_http(site: Callable[..., Site], to: str) -> None:
    """A site cannot make a worker read a file of its own, nor speak another protocol, nor log in somewhere."""
    with pytest.raises(FetchError):
        fetch(site(lambda _site, client, _path: _redirect(client, to)).url)


def test_fetch_ends_a_circle_of_redirects(site: Callable[..., Site]) -> None:
    """A site that sends it round and round is a failure with a reason."""
    found = site(lambda _site, client, _path: _redirect(client, "/again"))
    with pytest.raises(FetchError, match="redirect"):
        fetch(found.url)
    assert len(found.asked) < 20


def test_fetch_says_that_nobody_listens() -> None:
    """A refused connection is named as such, with the URL."""
    port = free_port()
    with pytest.raises(FetchError, match=rf"fetch http://127\.0\.0\.1:{port}/: .*Connection refused"):
        fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:,x",
        "127.0.0.1/",
        "http:///x",
        "http://",
        "http://[::1",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1/a b\r\nHost: x",
        "http://127.0.0.1:1/ä",
        5,
        None,
        ["http://127.0.0.1/"],
    ],
)
def test_fetch_refuses_what_is_no_http_url(url: object) -> None:
    """Every wrong URL is a FetchError of one line; no other exception comes through."""
    with pytest.raises(FetchError, match=r"^fetch") as caught:
        fetch(url)
    assert "\n" not in str(caught.value)


def test_fetch_shows_no_password() -> None:
    """A login in a URL is refused, and is neither in the text nor in what caused it."""
    with pytest.raises(FetchError) as caught:
        fetch("http://user:s3cr3t@127.0.0.1:1/")
    assert "s3cr3t" not in f"{caught.value} {caught.value.__cause__}"
    assert "without user and password" in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\nA\r\nabc"],
    ids=["length", "chunked"],
)
def test_fetch_refuses_a_body_that_was_cut_off(site: Callable[..., Site], head: bytes) -> None:
    """Half a body is a failure, never a result with the hash of the half."""
    with pytest.raises(FetchError):
        fetch(site(lambda _site, client, _path: _send(client, OK, head)).url)


@pytest.mark.parametrize(
    "garbage", [b"", b"\0" * 100, b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"x" * 70_000 + b"\n"]
)
def test_fetch_refuses_an_answer_that_is_no_http(site: Callable[..., Site], garbage: bytes) -> None:
    """Whatever another protocol answers is a FetchError of one line."""
    with pytest.raises(FetchError) as caught:
        fetch(site(lambda _site, client, _path: _send(client, garbage)).url)
    assert re.fullmatch(r"fetch http://\S+: .+", str(caught.value))


def test_fetch_says_that_the_connection_was_reset(site: Callable[..., Site]) -> None:
    """A reset in the middle of the body is named."""

    def reset(_site: Site, client: socket.socket, _path: str) -> None:
        _send(client, OK, b"Content-Length: 1000000\r\n\r\n", BODY)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)

    with pytest.raises(FetchError, match=r"cut off|reset"):
        fetch(site(reset).url)


def _silence(here: Site, _client: socket.socket, _path: str) -> None:
    here.is_over.wait(20)


def _slow_headers(here: Site, client: socket.socket, _path: str) -> None:
    _drip(here, client, OK + b"X-Long: " + b"x" * 1000)


def _slow_body(here: Site, client: socket.socket, _path: str) -> None:
    _send(client, OK, b"Content-Length: 1000\r\n\r\n")
    _drip(here, client, b"x" * 1000)


def _slow_chunks(here: Site, client: socket.socket, _path: str) -> None:
    _send(client, OK, b"Transfer-Encoding: chunked\r\n\r\n")
    _drip(here, client, b"1\r\nx\r\n" * 300)


def _slow_redirects(here: Site, client: socket.socket, path: str) -> None:
    here.is_over.wait(0.1)
    _redirect(client, f"{path}x")


@pytest.mark.parametrize("answer", [_silence, _slow_headers, _slow_body, _slow_chunks, _slow_redirects])
def test_the_bound_on_time_holds_for_all_of_a_download(
    site: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Site, socket.socket, str], None],
) -> None:
    """A byte now and then buys no time: headers, body, chunks and redirects share the one bound."""
    monkeypatch.setenv("BROKER_APP_FETCH__TIMEOUT_SECONDS", SHORT_SECONDS)
    with pytest.raises(FetchError, match=r"not done in 0\.2 s \(fetch\.timeout_seconds\)"):
        fetch(site(answer).url)
