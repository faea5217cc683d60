"""The metrics server: authentication, and that it survives every request."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from pydantic import SecretStr
from waiting import wait_until

from broker_app.errors import MetricsError
from broker_app.monitoring import http_server as server_module
from broker_app.monitoring.broker_cache import BrokerCache
from broker_app.monitoring.broker_reader import BrokerNumbers
from broker_app.monitoring.http_messages import MAX_BODY_BYTES, HttpRequest, HttpResponse, HttpRoute, as_json
from broker_app.monitoring.http_server import MAX_REQUESTS, MetricsServer
from broker_app.monitoring.targets import found_targets, targets
from broker_app.settings import MetricsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def fail(_: HttpRequest) -> HttpResponse:
    """Do what no page should."""
    raise ValueError("secret details")


ROUTES = {
    "/metrics": HttpRoute(lambda _: HttpResponse("numbers\n")),
    "/live": HttpRoute(lambda _: HttpResponse("live\n"), is_open=True),
    "/json": HttpRoute(
        lambda request: as_json({"query": dict(request.query), "body": len(request.body)}), ("GET", "POST")
    ),
    "/fail": HttpRoute(fail),
}


@contextmanager
def serving(routes: dict[str, HttpRoute] | None = None, **settings: Any) -> Iterator[MetricsServer]:
    """Run a server on a free port for the length of a block."""
    server = MetricsServer(MetricsSettings(port=0, **settings))
    thread = threading.Thread(target=server.serve, args=(routes or ROUTES,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def ask(url: str, method: str = "GET", data: bytes | None = None, **options: Any) -> tuple[int, str]:
    """Return status and body."""
    headers = options.pop("headers", {})
    request = urllib.request.Request(url, data=data, method=method, headers=headers)  # noqa: S310 - our own server
    try:
        with urllib.request.urlopen(request, timeout=60, **options) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of a login."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_it_listens_on_this_host_alone_unless_told() -> None:
    """The default address is not reachable from another host."""
    with serving() as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert ask(f"{server.url}/metrics") == (200, "numbers\n")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", HTTPStatus.NOT_FOUND),
        ("/metrics?x=1", "GET", HTTPStatus.OK),
        ("/metrics", "POST", HTTPStatus.METHOD_NOT_ALLOWED),
        ("/metrics", "HEAD", HTTPStatus.OK),
        ("/metrics", "DELETE", HTTPStatus.NOT_IMPLEMENTED),
        ("/../../etc/passwd", "GET", HTTPStatus.NOT_FOUND),
    ],
)
def test_paths_and_methods(path: str, method: str, status: HTTPStatus) -> None:
    """An unknown path is 404, and a method that a path does not take is 405."""
    with serving() as server:
        found, body = ask(server.url + path, method)
        assert found == status
        assert not (method == "HEAD" and body)


def test_a_page_that_fails_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that it failed, the log why, and the next request is answered."""
    with serving() as server:
        status, body = ask(f"{server.url}/fail")
        assert (status, "secret" in body) == (500, False)
        assert "secret details" in caplog.text
        assert ask(f"{server.url}/live")[0] == 200


def test_a_request_brings_its_query_and_a_bounded_body() -> None:
    """Query and body reach the page; a body beyond the bound is refused unread."""
    with serving() as server:
        assert ask(f"{server.url}/json?a=1&b=x%20y", "POST", b"12345") == (
            200,
            '{"query": {"a": "1", "b": "x y"}, "body": 5}\n',
        )
        lengths = {"Content-Length": str(MAX_BODY_BYTES + 1)}
        assert ask(f"{server.url}/json", "POST", headers=lengths)[0] == 413
        for length in ("-1", "9" * 5_000, "x", "\u0663".encode().decode("latin-1"), "1 1"):
            assert ask(f"{server.url}/json", "POST", headers={"Content-Length": length})[0] == 413, length


def test_a_password_keeps_everybody_else_out() -> None:
    """With a user and a password only they open anything but the probe, also what is not there."""
    with serving(username="prometheus", password=SecretStr("päss:word")) as server:
        for headers in (
            {},
            basic("prometheus", "wrong"),
            {"Authorization": "Basic \xff"},
            {"Authorization": "x" * 9_000},
        ):
            assert ask(f"{server.url}/metrics", headers=headers)[0] == 401
            assert ask(f"{server.url}/nothing", headers=headers)[0] == 401
        assert ask(f"{server.url}/metrics", headers=basic("prometheus", "päss:word")) == (200, "numbers\n")
        assert ask(f"{server.url}/live") == (200, "live\n")


def test_tls(tmp_path: Path) -> None:
    """With a certificate it speaks HTTPS only; a client that speaks plain HTTP does no harm."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        serving(certificate=tmp_path / "server.pem") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as plain,
    ):
        plain.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert server.url.startswith("https://")
        assert ask(f"{server.url}/metrics", context=context) == (200, "numbers\n")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_is_none(tmp_path: Path, content: str | None) -> None:
    """A certificate that is missing or unreadable is one error that names the setting."""
    if content is not None:
        (tmp_path / "server.pem").write_text(content)
    with pytest.raises(MetricsError, match=r"metrics.certificate: expected PEM"):
        MetricsServer(MetricsSettings(port=0, certificate=tmp_path / "server.pem"))


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid", "192.0.2.1"])
def test_an_address_that_cannot_be_had(host: str) -> None:
    """A port that is taken, or an address that is not this host's, is one error with both and the cure."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsError, match=rf"{host}:{port}.*set metrics.host and metrics.port"):
            MetricsServer(MetricsSettings(host=host, port=port))


def test_many_idle_clients_leave_room_in_the_end() -> None:
    """More clients than it has threads for are turned away, and it answers again when they are gone."""
    with serving() as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(MAX_REQUESTS + 5)]
        for client in idle:
            client.close()

        def answers() -> bool:
            try:
                return ask(f"{server.url}/live") == (200, "live\n")
            except OSError:
                return False

        wait_until(answers, 30, "an answer")


@contextmanager
def dripping(port: int, count: int) -> Iterator[None]:
    """Send requests that never end, a byte at a time, on connections that are reopened when they are closed."""
    is_over = threading.Event()

    def drip() -> None:
        senders: list[socket.socket | None] = [None] * count
        while not is_over.wait(0.1):
            for index, known in enumerate(senders):
                try:
                    sender = known or socket.create_connection(("127.0.0.1", port), timeout=60)
                    sender.sendall(b"x" if known else b"GET /metrics HTTP/1.1\r\nX-Slow: ")
                    senders[index] = sender
                except OSError:
                    senders[index] = None
        for known in senders:
            if known is not None:
                known.close()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize("count", [MAX_REQUESTS, 200])
def test_clients_that_drip_keep_nobody_out(count: int) -> None:
    """While as many clients as there are threads, or many more, drip their requests, others are answered."""
    with serving() as server, dripping(server.port, count):
        wait_until(lambda: threading.active_count() > MAX_REQUESTS, 30, "all threads to be taken")
        assert [ask(f"{server.url}/live") for _ in range(10)] == [(200, "live\n")] * 10


def test_the_time_for_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte again and again is cut off when the time for a whole request is over."""
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.5)
    with serving() as server, socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:

        def is_cut_off() -> bool:
            try:
                client.sendall(b"x")
            except OSError:
                return True
            return False

        wait_until(is_cut_off, 30, "the end of the connection")


def test_a_tls_handshake_that_never_comes_keeps_nobody_out(tmp_path: Path) -> None:
    """Clients that connect and do not begin TLS make room for those who do."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(certificate=tmp_path / "server.pem") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(MAX_REQUESTS + 5)]
        assert ask(f"{server.url}/live", context=context) == (200, "live\n")
        for client in idle:
            client.close()


def test_a_name_that_was_made_to_lead_here_reads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Every path asks for an address, a name of this host or one of the settings, and logs another one once."""
    with serving(page_hosts=("status.example",)) as server:
        for host in (
            "127.0.0.1:1",
            "[::1]:1",
            "10.0.0.7",
            "LOCALHOST",
            f"{socket.gethostname()}:9480",
            "status.example",
        ):
            assert ask(f"{server.url}/metrics", headers={"Host": host}) == (200, "numbers\n"), host
        for path in ("/metrics", "/live", "/json", "/nothing"):
            for host in ("evil.example:9480", "127.0.0.1.evil.example", "localhost.evil", "[::1", "x" * 10_000):
                status, body = ask(server.url + path, headers={"Host": host})
                assert (status, "metrics.page_hosts" in body, len(body) < 500) == (403, True, True), (path, host)
        assert caplog.text.count("evil.example:9480") == 1
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(b"GET /live HTTP/1.0\r\n\r\n")  # a load balancer's check, without a Host
            assert client.makefile().readline().split()[1] == "200"


def test_the_password_makes_every_name_good() -> None:
    """With the right password any name is accepted; without it, only open paths are served."""
    with serving(username="ops", password=SecretStr("s3cr3t")) as server:
        host = {"Host": "proxy.example"}
        assert ask(f"{server.url}/metrics", headers=host | basic("ops", "s3cr3t")) == (200, "numbers\n")
        assert ask(f"{server.url}/metrics", headers=host)[0] == 401
        assert ask(f"{server.url}/live", headers=host)[0] == 403


def test_the_broker_is_read_once_for_many_who_ask() -> None:
    """Within the cache's time the broker is asked once, however many ask, also at the same moment."""
    reads = []

    def read() -> BrokerNumbers:
        reads.append(1)
        return BrokerNumbers(is_up=True)

    watch = BrokerCache(read, cache_seconds=60, timeout_seconds=60)
    threads = [threading.Thread(target=watch.numbers) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.numbers()[0].is_up
    assert len(reads) == 1
    watch.close()


def test_nobody_waits_long_for_a_broker_that_hangs() -> None:
    """After the bound the broker is not up; the reading that hangs is the only one, and its end is taken."""
    release, reads = threading.Event(), []

    def read() -> BrokerNumbers:
        reads.append(1)
        release.wait(60)
        return BrokerNumbers(is_up=True)

    watch = BrokerCache(read, cache_seconds=60, timeout_seconds=0.05)
    started = time.monotonic()
    for _ in range(3):
        numbers, _age = watch.numbers()
        assert not numbers.is_up
        assert "did not answer within" in numbers.problem
    assert time.monotonic() - started < 30
    release.set()
    wait_until(lambda: watch.numbers()[0].is_up, 30, "the reading")
    assert len(reads) == 1
    watch.close()


def test_a_reading_that_fails_is_a_broker_that_is_not_up(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is logged, and the answer goes on without the broker."""

    def read() -> BrokerNumbers:
        raise RuntimeError("unforeseen")

    watch = BrokerCache(read, cache_seconds=60, timeout_seconds=60)
    assert not watch.numbers()[0].is_up
    assert "unforeseen" in caplog.text
    watch.close()


def test_targets_of_a_server_for_all_hosts() -> None:
    """A server that listens for others is a target on each host with workers, and on this one, with its scheme."""
    settings = MetricsSettings(host="0.0.0.0", port=9480)  # noqa: S104 - only looked at
    (found,) = found_targets(settings, ["worker2", "worker1", "fe80::1"])
    assert found["targets"] == sorted(
        [f"{socket.gethostname()}:9480", "worker1:9480", "worker2:9480", "[fe80::1]:9480"]
    )
    assert found["labels"] == {"__scheme__": "http"}
    assert targets(settings, ["elsewhere"]) == [{"targets": ["elsewhere:9480"], "labels": {"__scheme__": "http"}}]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_targets_of_a_server_for_this_host_alone(host: str) -> None:
    """A server that listens only on 127.0.0.1 is a target for that host's Prometheus alone."""
    (found,) = found_targets(MetricsSettings(host=host, port=1), ["worker1"])
    assert len(found["targets"]) == 1
    assert "worker1" not in found["targets"][0]


@pytest.mark.parametrize(
    "wrong",
    [{"username": "u"}, {"password": "p"}, {"certificate_key": "key.pem"}, {"port": 65_536}, {"max_tasks": 0}],
)
def test_settings_that_do_not_fit_together(wrong: dict[str, Any]) -> None:
    """Half a login, a key without a certificate, and numbers out of range are refused."""
    with pytest.raises(ValueError, match=r"must|needs|less|greater"):
        MetricsSettings(**wrong)
