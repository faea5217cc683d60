"""``rabbitmqctl`` of a broker on this machine: in its container, or with the environment of its private node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from containers import container_at

from broker_app.local_broker.node_config import MARK_VARIABLE, find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND_SECONDS = 90
_AMQP_PORT = 5672


def port_of(amqp_url: str) -> int:
    """Return the port of an AMQP URL."""
    return urlsplit(amqp_url).port or _AMQP_PORT


def is_reachable(port: int) -> bool:
    """Return whether the broker on a port is a container or a private node of this machine."""
    return bool(container_at(port)) or next(_node_environments(port), None) is not None


def rabbitmqctl(port: int, *words: str) -> str:
    """Run ``rabbitmqctl`` for the broker that listens on a port, and return what it printed.

    Raises:
        AssertionError: It failed; the text is its output.
    """
    command, environment = _command(port)
    done = subprocess.run(
        [*command, *words],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
    )
    assert done.returncode == 0, f"rabbitmqctl {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def holding(amqp_url: str, prefix: str) -> str:
    """Return a broker's queues with a prefix that hold messages, a line each: name, ready, unacknowledged, all."""
    columns = ("name", "messages_ready", "messages_unacknowledged", "messages")
    lines = rabbitmqctl(port_of(amqp_url), "--quiet", "list_queues", *columns).splitlines()
    return "\n".join(line for line in lines if line.startswith(prefix) and not line.endswith("\t0"))


def _command(port: int) -> tuple[list[str], dict[str, str]]:
    if container := container_at(port):
        return ["docker", "exec", container, "rabbitmqctl"], dict(os.environ)
    environment = next(_node_environments(port), None)
    assert environment is not None, f"port {port}: expected a container or a private node, found neither"
    # Debian's wrapper in /usr/sbin changes to the user rabbitmq, whose Erlang cookie is another.
    script = find_server(environment.get("PATH", "")).with_name("rabbitmqctl")
    # Without the mark, the command is not taken for a process of the node.
    return [str(script)], {name: value for name, value in environment.items() if name != MARK_VARIABLE}


def _node_environments(port: int) -> Iterator[dict[str, str]]:
    """Yield the environment of each process of the private node that listens on a port."""
    for process in Path("/proc").glob("[0-9]*"):
        environment = _environment(process)
        file = Path(environment.get("RABBITMQ_CONFIG_FILE", ""))
        if file.is_file() and f":{port}\n" in file.read_text(encoding="utf-8"):
            yield environment


def _environment(process: Path) -> dict[str, str]:
    try:
        text = (process / "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or belongs to another user
        return {}
    return dict(line.partition("=")[::2] for line in text.split("\0") if line)
