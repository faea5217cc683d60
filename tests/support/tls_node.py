"""A RabbitMQ node of a test's own that speaks TLS, in a container, with certificates made for it."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trustme
from containers import docker
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER, PASSWORD = "tls-user", "s3cr3t/word"
QUOTED = "s3cr3t%2Fword"
HOST = "127.0.0.1"
"""The only name in the node's certificate."""

_START_SECONDS = 90.0
_COMMAND_SECONDS = 60

_CONF = """\
listeners.tcp = none
listeners.ssl.default = 5671
ssl_options.cacertfile = /certificates/authority.pem
ssl_options.certfile = /certificates/node.pem
ssl_options.keyfile = /certificates/node.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
loopback_users = none
"""


@dataclass
class TlsNode:
    """The node, which takes only clients with a certificate of its authority.

    Attributes:
        folder: Where the files are: ``authority.pem``, ``client.pem`` and ``client.key``, ``other.pem`` (another
            authority).
        port: Where it listens on this machine.
        container: Its name.
    """

    folder: Path
    port: int
    container: str
    authority: trustme.CA = field(default_factory=trustme.CA)

    def url(self, host: str = HOST) -> str:
        """Return its URL with the password, by one of this machine's names."""
        return f"amqps://{USER}:{QUOTED}@{host}:{self.port}//"

    def show(self, *, is_expired: bool = False) -> None:
        """Let it show a new certificate, from the next connection on."""
        past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        issued = self.authority.issue_cert(HOST, not_after=past if is_expired else None)
        _write(self.folder / "node.pem", b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        _write(self.folder / "node.key", issued.private_key_pem.bytes())
        if self._is_running():
            docker("exec", self.container, "rabbitmqctl", "eval", "ssl:clear_pem_cache().")

    def close_connections(self) -> None:
        """Close all connections, as an operator would."""
        docker("exec", self.container, "rabbitmqctl", "close_all_connections", "test")

    def _is_running(self) -> bool:
        return bool(docker("ps", "--quiet", "--filter", f"name={self.container}"))


@contextmanager
def tls_node(folder: Path, image: str) -> Iterator[TlsNode]:
    """Start it, and remove it with the block."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    node = TlsNode(folder, port, f"broker-app-tls-{secrets.token_hex(6)}")
    _prepare(node)
    mounts = (
        "-v",
        f"{folder}:/certificates:ro",
        "-v",
        f"{folder / 'tls.conf'}:/etc/rabbitmq/conf.d/50-tls.conf:ro",
    )
    user = ("-e", f"RABBITMQ_DEFAULT_USER={USER}", "-e", f"RABBITMQ_DEFAULT_PASS={PASSWORD}")
    place = ("--name", node.container, "--publish", f"{HOST}:{port}:5671", "--ulimit", "nofile=16384:16384")
    try:
        docker("run", "--detach", *place, *mounts, *user, image)
        wait_until(lambda: _is_listening(node), _START_SECONDS, "the node to listen")
        yield node
    finally:
        docker("rm", "--force", "--volumes", node.container)


def image_of(amqp_url: str) -> str:
    """Return the image of the container that serves a URL, else the product's own."""
    port = amqp_url.rpartition("@")[2].partition("/")[0].rpartition(":")[2]
    found = docker("ps", "--filter", f"publish={port}", "--format", "{{.Image}}") if shutil.which("docker") else ""
    return found or "rabbitmq:4-management"


def _prepare(node: TlsNode) -> None:
    """Write what the node and its clients read."""
    node.folder.chmod(0o755)  # the node runs as another user
    node.show()
    _write(node.folder / "tls.conf", _CONF.encode())
    _write(node.folder / "authority.pem", node.authority.cert_pem.bytes())
    _write(node.folder / "other.pem", trustme.CA().cert_pem.bytes())
    client = node.authority.issue_cert("worker.example")
    _write(node.folder / "client.pem", b"".join(blob.bytes() for blob in client.cert_chain_pems))
    _write(node.folder / "client.key", client.private_key_pem.bytes())


def _is_listening(node: TlsNode) -> bool:
    done = subprocess.run(
        ["docker", "exec", node.container, "rabbitmq-diagnostics", "-q", "check_port_listener", "5671"],  # noqa: S607
        capture_output=True,
        check=False,
        timeout=_COMMAND_SECONDS,
    )
    return done.returncode == os.EX_OK


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o644)
