"""Private node configuration: ports, configuration file and environment. Nothing is started here."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.errors import BrokerNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOOPBACK = "127.0.0.1"
NODE_NAME = "broker_app@localhost"  # the same for every node, since each has its own epmd
MARK_VARIABLE = "BROKER_APP_PRIVATE_NODE"
SERVER = "rabbitmq-server"
USUAL_FOLDERS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/sbin"), Path("/usr/bin"), Path("/sbin"), Path("/bin"))
"""Searched after the PATH, because an ordinary user's PATH lacks the sbin folders."""

FRESH_STATISTICS = "-rabbit collect_statistics_interval 1000"
"""Erlang VM arguments that update the management API's statistics every second; RabbitMQ's default is 5 s."""

_FOREIGN = ("RABBITMQ_", "ERL_", "XDG_")
"""Prefixes of variables that would make the node use the ports, files or cookie of the caller's own broker."""
_FOREIGN_NAMES = frozenset({"CONF_ENV_FILE", "NOTIFY_SOCKET", "HOME", "detached"})


@dataclass(frozen=True)
class NodePorts:
    """The ports of one node, all on 127.0.0.1: AMQP, the management plugin, Erlang distribution, Erlang's epmd."""

    amqp: int
    management: int
    distribution: int
    epmd: int

    def taken(self) -> list[int]:
        """Return the ports that are in use."""
        return [port for port in asdict(self).values() if not _is_free(port)]


def free_ports() -> NodePorts:
    """Return four different free ports. Another process may still take one before the node does."""
    with ExitStack() as stack:
        ports = []
        for _ in range(4):  # all open at once, so that no port is returned twice
            listener = stack.enter_context(socket.socket())
            listener.bind((LOOPBACK, 0))
            ports.append(listener.getsockname()[1])
    return NodePorts(*ports)


def find_server(path: str, usual_folders: Sequence[Path] = USUAL_FOLDERS) -> Path:
    """Return RabbitMQ's own start script, from the folders of ``path`` or else from ``usual_folders``.

    The packages' wrapper in /usr/sbin is skipped, because it switches users with su and writes to the system's log
    folder. The real script is the one in the same folder as ``rabbitmq-env``, which it reads.

    Raises:
        BrokerNotFound: RabbitMQ is not installed.
    """
    folders = [Path(folder) for folder in path.split(":") if folder]
    for folder in (*folders, *usual_folders):
        script = (folder / SERVER).resolve().with_name(SERVER).resolve()
        if script.is_file() and script.with_name("rabbitmq-env").is_file():
            return script
    raise BrokerNotFound(
        f"expected {SERVER} on the PATH or in a usual folder, found none; install the package {SERVER}"
    )


def rabbitmq_conf(ports: NodePorts, username: str, password: str) -> str:
    """Return the text of rabbitmq.conf. It sets a default user, so RabbitMQ does not create ``guest``."""
    return "\n".join([
        f"listeners.tcp.local = {LOOPBACK}:{ports.amqp}",
        f"management.tcp.ip = {LOOPBACK}",
        f"management.tcp.port = {ports.management}",
        f"default_user = {username}",
        f"default_pass = {password}",
        "",
    ])  # fmt: skip


def environment(
    caller: Mapping[str, str], folder: Path, server: Path, ports: NodePorts, mark: str
) -> dict[str, str]:
    """Return the environment of the node: the caller's, without variables for another node, plus our own.

    All files that the node reads or writes are in ``folder``, including the Erlang cookie (in HOME). The plugins
    folder is set because the scripts of Debian's 4.0 do not find it when the wrapper is bypassed.
    """
    kept = {
        name: value
        for name, value in caller.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    interface = LOOPBACK.replace(".", ",")
    return kept | {
        MARK_VARIABLE: mark,
        "PATH": _with_usual_folders(kept.get("PATH", "")),
        "HOME": str(folder / "home"),
        "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(ports.epmd),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_NODENAME": NODE_NAME,
        "RABBITMQ_PLUGINS_DIR": str(server.parent.parent / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            f"-kernel inet_dist_use_interface {{{interface}}} {FRESH_STATISTICS}"
        ),
    }


def _with_usual_folders(path: str) -> str:
    return ":".join([path, *map(str, USUAL_FOLDERS)] if path else map(str, USUAL_FOLDERS))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # Ignore closed connections in TIME_WAIT, as Erlang does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError:
            return False
    return True
