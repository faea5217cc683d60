"""The broker's identity is verified when the URL says amqps, by all who connect; the password is seen nowhere."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme
from apps import app_maker
from ending import END_SECONDS
from kombu import pools
from ledger import ledger
from tls_node import PASSWORD, QUOTED, TlsNode, tls_node

from broker_app import BrokerApp
from broker_app.broker.access import connect
from broker_app.broker.declare import queue_depth
from broker_app.errors import BrokerError, BrokerUnreachable, SettingsError
from broker_app.messages.channel import open_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker


@contextmanager
def tls_server(authority: trustme.CA, name: str) -> Iterator[int]:
    """Answer TLS handshakes with a certificate for ``name``; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # the test is over
            try:
                context.wrap_socket(client, server_side=True).close()
            except OSError:
                client.close()  # the client refused, as it should

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


def refusal(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return why a task could not be published to an amqps URL."""
    monkeypatch.setenv("BROKER_APP_BROKER_URL", f"amqps://user:secret@127.0.0.1:{port}//")
    app = BrokerApp("tls", set_as_current=False)
    with pytest.raises(BrokerUnreachable) as caught:
        app.send_task("any", confirm_timeout=3, ignore_result=True)
    return caught.value.reason


def test_an_unknown_authority_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker whose certificate is from an authority that this machine does not trust gets no task."""
    with tls_server(trustme.CA(), "127.0.0.1") as port:
        assert "certificate verify failed" in refusal(port, monkeypatch)


def test_a_certificate_for_another_host_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broker with a trusted certificate for another name gets no task."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with tls_server(authority, "broker.example") as port:
        assert "certificate is not valid for '127.0.0.1'" in refusal(port, monkeypatch)


# A real node, which wants a certificate of its clients too


@pytest.fixture(scope="module")
def node(broker: FoundBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsNode]:
    """Return a node of the version of the run's broker."""
    with tls_node(tmp_path_factory.mktemp("certificates"), broker) as started:
        yield started


def tls(node: TlsNode, authority: str = "authority.pem", *, has_certificate: bool = True) -> str:
    """Return the table of the settings."""
    folder = node.folder
    own = (
        f'certificate = "{folder}/client.pem"\ncertificate_key = "{folder}/client.key"\n'
        if has_certificate
        else ""
    )
    return f'[tls]\nca_certificates = "{folder}/{authority}"\n{own}'


@pytest.fixture
def make(tmp_path: Path, node: TlsNode) -> Iterator[Callable[..., BrokerApp]]:
    """Return what makes apps for the node, by default with all that it needs."""
    with app_maker(tmp_path, node.url()) as maker:
        yield lambda table="", **options: maker((table or tls(node)) + "[queues.default]\n", **options)


def refusals(app: BrokerApp) -> list[str]:
    """Return the errors of a producer, a command and pika, each of which must be refused."""
    pools.reset()  # kombu shares them between apps with the same first host
    with pytest.raises(BrokerUnreachable) as published:
        app.send_task("any", confirm_timeout=3, ignore_result=True)
    with pytest.raises(BrokerError) as compared, connect(app):
        pass
    with pytest.raises(BrokerError) as inspected, open_link(app):
        pass
    found = [str(caught.value) for caught in (published, compared, inspected)]
    assert not any(PASSWORD in text or QUOTED in text for text in found)
    return found


@pytest.mark.version
def test_the_right_node_is_taken_by_all(make: Callable[..., BrokerApp]) -> None:
    """A producer, an operator's command and pika connect, each with the client's certificate."""
    app = make()
    app.send_task("any", ignore_result=True)
    with connect(app) as connection:
        assert queue_depth(connection, "default")
    with open_link(app):
        pass


@pytest.mark.version
def test_what_is_refused(make: Callable[..., BrokerApp], node: TlsNode) -> None:
    """Another authority, another host name, an expired certificate: no client sends a password there."""
    assert all("certificate verify failed" in text for text in refusals(make(tls(node, "other.pem"))))
    by_other_name = refusals(make(url=node.url("localhost")))
    assert all("mismatch, certificate is not valid for 'localhost'" in text for text in by_other_name)
    node.show(is_expired=True)
    try:
        assert all("certificate has expired" in text for text in refusals(make()))
    finally:
        node.show()


@pytest.mark.version
def test_a_client_without_a_certificate_is_refused(make: Callable[..., BrokerApp], node: TlsNode) -> None:
    """The node refuses it, and each client says so in one line."""
    assert all("\n" not in text for text in refusals(make(tls(node, has_certificate=False))))


def test_each_of_several_hosts_is_verified_by_its_own_name(make: Callable[..., BrokerApp], node: TlsNode) -> None:
    """With the first host down the second is taken, by all: again and again, also when a connection was lost."""
    app = make(url=f"{node.url('127.0.0.2')};{node.url()}")
    for _ in range(2):
        app.send_task("any", ignore_result=True)
        node.close_connections()
    with connect(app) as connection:
        assert queue_depth(connection, "default")
    with open_link(app):
        pass
    assert refusals(make(url=f"{node.url('127.0.0.2')};{node.url('localhost')}")), "the name of neither is right"


@pytest.mark.timeout(240)
def test_a_fleet_whose_password_stands_in_a_file(node: TlsNode, tmp_path: Path) -> None:
    """Workers run tasks over TLS, with fail-over; process list, logs, status and state lack the password."""
    secret = tmp_path / "secret"
    secret.write_text(f"{node.url('127.0.0.2')};{node.url()}\n")
    secret.chmod(0o400)
    settings = tls(node) + "[queues.default]\n[queues.default.fleet]\nconcurrency = 1\n"
    with ledger(tmp_path / "shop", "amqp://nobody:none@127.0.0.1:1//", settings) as shop:
        shop.variables["BROKER_APP_BROKER_URL_FILE"] = str(secret)
        start = shop.run("broker-app", "-A", "shop", "fleet", "start", "--wait", "180")
        try:
            assert start.returncode == 0, start
            done = shop.run("broker-app", "-A", "shop", "send", "shop.note", "--wait", "--timeout", "60")
            assert done.returncode == 0, done
            status = shop.run("broker-app", "-A", "shop", "fleet", "status", "--json")
            json.loads(status.stdout)
            processes = subprocess.run(
                ["/bin/ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True, timeout=END_SECONDS
            ).stdout
        finally:
            stop = shop.run("broker-app", "-A", "shop", "fleet", "stopwait")
        assert "default@" in processes
        told = [it.stdout + it.stderr for it in (start, done, status, stop)] + [processes]
        told += [file.read_text(errors="replace") for file in (tmp_path / "shop").rglob("*") if file.is_file()]
    assert not any(PASSWORD in text or QUOTED in text for text in told)


# Settings


def test_settings_of_tls_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, a key without its certificate, hosts with and without TLS; each is named."""
    key = tmp_path / "key"
    key.write_text("")
    for name, value, words in (
        ("TLS__CA_CERTIFICATES", str(tmp_path / "none"), "must be a readable PEM file"),
        ("TLS__CERTIFICATE_KEY", str(key), "certificate_key needs certificate to be set too"),
        ("BROKER_URL", "amqps://u:secret@a//;amqp://u:secret@b//", "must use amqps:// for all hosts"),
        ("BROKER_URL_FILE", str(tmp_path / "none"), "broker_url_file: expected a readable file"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"BROKER_APP_{name}", value)
            with pytest.raises(SettingsError, match=words) as caught:
                _ = BrokerApp("tls", set_as_current=False).settings
            assert "secret" not in str(caught.value)
