"""The broker's identity is verified when the URL says amqps."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from broker_app import BrokerApp
from broker_app.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
        app.send_task("any", confirm_timeout=1, ignore_result=True)
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
