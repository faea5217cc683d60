"""A RabbitMQ node of a test's own that speaks TLS, with certificates made for it."""

from __future__ import annotations

import datetime as dt
import secrets
import socket
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

import trustme
from brokers import Management
from containers import container_at, docker
from ports import free_port
from rabbitmqctl import port_of, rabbitmqctl
from waiting import wait_until

from broker_app.local_broker.private_node import PrivateNode
from broker_app.settings.private_files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker_app.local_broker import FoundBroker

USER, PASSWORD = "tls-user", "s3cr3t/word"
QUOTED = quote(PASSWORD, safe="")
HOST = "127.0.0.1"
"""The only name in the node's certificate."""

_START_SECONDS = 90.0
_ANSWER_SECONDS = 30
_TLS_PORT = 5671

_CONF = """\
listeners.ssl.default = {listener}
ssl_options.cacertfile = {folder}/authority.pem
ssl_options.certfile = {folder}/node.pem
ssl_options.keyfile = {folder}/node.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
_CONTAINER_CONF = _CONF + "listeners.tcp = none\nloopback_users = none\n"


@dataclass
class TlsNode:
    """The node, which takes only clients with a certificate of its authority.

    Attributes:
        folder: Where the files are: ``authority.pem``, ``client.pem`` and ``client.key``, ``other.pem`` (another
            authority).
        port: Where it listens for TLS on this machine.
        control_port: The port by which `rabbitmqctl` finds it; 0 until it has started.
    """

    folder: Path
    port: int
    control_port: int = 0
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
        if self.control_port:
            rabbitmqctl(self.control_port, "eval", "ssl:clear_pem_cache().")

    def close_connections(self) -> None:
        """Close all connections, as an operator would."""
        rabbitmqctl(self.control_port, "close_all_connections", "test")


@contextmanager
def tls_node(folder: Path, broker: FoundBroker) -> Iterator[TlsNode]:
    """Start a node of the kind and the version of the run's broker, and remove it with the block."""
    node = TlsNode(folder, free_port())
    _prepare(node)
    image = container_at(port_of(broker.url), "{{.Image}}")
    with _container(node, image) if image else _private_node(node):
        wait_until(lambda: _is_listening(node), _START_SECONDS, "the node to listen")
        yield node


@contextmanager
def _container(node: TlsNode, image: str) -> Iterator[None]:
    name = f"broker-app-tls-{secrets.token_hex(6)}"
    conf = node.folder / "tls.conf"
    _write(conf, _CONTAINER_CONF.format(listener=_TLS_PORT, folder="/certificates").encode())
    mounts = ("-v", f"{node.folder}:/certificates:ro", "-v", f"{conf}:/etc/rabbitmq/conf.d/50-tls.conf:ro")
    user = ("-e", f"RABBITMQ_DEFAULT_USER={USER}", "-e", f"RABBITMQ_DEFAULT_PASS={PASSWORD}")
    place = ("--name", name, "--publish", f"{HOST}:{node.port}:{_TLS_PORT}", "--ulimit", "nofile=16384:16384")
    try:
        docker("run", "--detach", *place, *mounts, *user, image)
        node.control_port = node.port
        yield
    finally:
        docker("rm", "--force", "--volumes", name)


@contextmanager
def _private_node(node: TlsNode) -> Iterator[None]:
    conf = node.folder / "node" / "conf.d" / "50-tls.conf"
    make_private_folder(conf.parent)
    _write(conf, _CONF.format(listener=f"{HOST}:{node.port}", folder=node.folder).encode())
    with PrivateNode(node.folder / "node") as private:
        node.control_port = private.ports.amqp
        management = Management.of(private.amqp_url, private.management_url)
        management.put(f"users/{USER}", {"password": PASSWORD, "tags": ""})
        management.put(f"permissions/%2F/{USER}", dict.fromkeys(("configure", "write", "read"), ".*"))
        yield


def _prepare(node: TlsNode) -> None:
    """Write what the node and its clients read."""
    node.folder.chmod(0o755)  # the node of a container runs as another user
    node.show()
    _write(node.folder / "authority.pem", node.authority.cert_pem.bytes())
    _write(node.folder / "other.pem", trustme.CA().cert_pem.bytes())
    client = node.authority.issue_cert("worker.example")
    _write(node.folder / "client.pem", b"".join(blob.bytes() for blob in client.cert_chain_pems))
    _write(node.folder / "client.key", client.private_key_pem.bytes())


def _is_listening(node: TlsNode) -> bool:
    """Return whether it shows its certificate: a container's published port is open long before."""
    context = ssl.create_default_context(cafile=str(node.folder / "authority.pem"))
    context.load_cert_chain(node.folder / "client.pem", node.folder / "client.key")
    try:
        with socket.create_connection((HOST, node.port), _ANSWER_SECONDS) as link:
            context.wrap_socket(link, server_hostname=HOST).close()
    except OSError:
        return False
    return True


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0o644)
