"""Three RabbitMQ nodes that are one broker, in containers, with the configuration of compose/cluster.yml."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokers import Management
from containers import docker
from ports import free_port
from waiting import wait_until

from broker_app.local_broker.readiness import wait_for_version

if TYPE_CHECKING:
    from collections.abc import Iterator

CONF = Path(__file__).parents[2] / "compose" / "cluster" / "cluster.conf"
NODES = (1, 2, 3)

_START_SECONDS = 150.0
_USER = "cluster"


@dataclass
class Cluster:
    """The nodes, numbered from 1.

    Attributes:
        image: RabbitMQ's.
        name: Of the network, and the beginning of the containers' names.
        password: Of the user.
    """

    image: str
    name: str = field(default_factory=lambda: f"broker-app-cluster-{secrets.token_hex(4)}")
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    _ports: dict[int, tuple[int, int]] = field(
        default_factory=lambda: {node: (free_port(), free_port()) for node in NODES}
    )

    @property
    def url(self) -> str:
        """All nodes, for fail-over."""
        return ";".join(self.url_of(node) for node in NODES)

    def url_of(self, node: int) -> str:
        """One node, with the password."""
        return f"amqp://{_USER}:{self.password}@127.0.0.1:{self._ports[node][0]}//"

    def management(self, node: int) -> Management:
        """Return a node's management API."""
        return Management(f"http://127.0.0.1:{self._ports[node][1]}", _USER, self.password)

    def run(self) -> None:
        """Start all, and return when they are one."""
        docker("network", "create", self.name)
        for node in NODES:
            amqp, api = self._ports[node]
            options = ["--network", self.name, "--hostname", f"rabbit-{node}", "--network-alias", f"rabbit-{node}"]
            options += ["--publish", f"127.0.0.1:{amqp}:5672", "--publish", f"127.0.0.1:{api}:15672"]
            options += ["-v", f"{CONF}:/etc/rabbitmq/conf.d/20-cluster.conf:ro", "--ulimit", "nofile=16384:16384"]
            options += ["-e", f"RABBITMQ_DEFAULT_USER={_USER}", "-e", f"RABBITMQ_DEFAULT_PASS={self.password}"]
            options += ["-e", f"RABBITMQ_ERLANG_COOKIE={self.name}"]
            docker("run", "--detach", "--name", self._container(node), *options, self.image)
        for node in NODES:  # others see it run while it starts: a queue would have no member there
            wait_for_version(self.url_of(node), _START_SECONDS, lambda: None)
        wait_until(lambda: self.running() == len(NODES), _START_SECONDS, "three nodes to be one broker")

    def running(self) -> int:
        """Return how many nodes run, as any of them sees it; 0 if none answers."""
        for node in NODES:
            try:
                return sum(bool(it.get("running")) for it in self.management(node).get("nodes"))
            except (OSError, ValueError):
                continue
        return 0

    def queue(self, name: str) -> dict[str, Any]:
        """Return a queue's facts, from a node that answers."""
        for node in NODES:
            try:
                return self.management(node).queue("/", name)
            except (OSError, ValueError):
                continue
        return {}

    def leader(self, queue: str) -> int:
        """Return the node on which a quorum queue has its leader."""
        return int(str(wait_until(lambda: self.queue(queue).get("leader"), 60, "a leader")).rpartition("-")[2])

    def kill(self, node: int) -> None:
        """End a node with SIGKILL."""
        docker("kill", self._container(node))

    def stop(self, node: int) -> None:
        """End a node in order, as for an upgrade."""
        docker("stop", "--time", "60", self._container(node))

    def start(self, node: int) -> None:
        """Start a node that was ended, and return when all run."""
        docker("start", self._container(node))
        wait_for_version(self.url_of(node), _START_SECONDS, lambda: None)
        wait_until(lambda: self.running() == len(NODES), _START_SECONDS, "the node to be back")

    def remove(self) -> None:
        """Remove all of it."""
        with ExitStack() as stack:
            stack.callback(docker, "network", "rm", self.name)
            for node in NODES:
                stack.callback(docker, "rm", "--force", "--volumes", self._container(node))

    def _container(self, node: int) -> str:
        return f"{self.name}-{node}"


@contextmanager
def running_cluster(image: str) -> Iterator[Cluster]:
    """Start a cluster, and remove it with the block."""
    made = Cluster(image)
    try:
        made.run()
        yield made
    finally:
        made.remove()
