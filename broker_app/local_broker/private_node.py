"""A RabbitMQ node of our own: the installed program, in one folder, reachable from this machine only."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from broker_app.errors import BrokerNotFound, PrivateNodeError
from broker_app.local_broker import process
from broker_app.local_broker.node_config import (
    LOOPBACK,
    MARK_VARIABLE,
    NodePorts,
    environment,
    find_server,
    free_ports,
    rabbitmq_conf,
)
from broker_app.local_broker.readiness import wait_for_management, wait_for_version
from broker_app.settings.private_files import make_private_folder, open_private, write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0  # with the management plugin, 3.10 needs 6 s to stop in order
_KILL_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_ATTEMPTS = 3  # of finding ports that nobody takes before the node does
_LOG_LINES = 8
_ERLANG_VM = "beam.smp"
_EPMD = "epmd"
_RECORD = "node.json"


@dataclass(frozen=True)
class _Record:
    """What must be known to reach, restart or end the node; kept in the folder, for another process."""

    mark: str
    server: str
    ports: NodePorts
    username: str
    password: str
    version: str = ""

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> _Record:
        try:
            facts = json.loads(path.read_text())
            return cls(**facts | {"ports": NodePorts(**facts["ports"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PrivateNodeError(
                f"{path}: expected the record of a private node, got {type(error).__name__}; start one there first"
            ) from error


class PrivateNode:
    """A private RabbitMQ node: its data, log, cookie and password are in ``folder``, its ports on 127.0.0.1.

    It needs no root. It outlives the process that started it, until somebody stops it; as a context manager it is
    stopped at the end of the block, by the process that entered it and not by a fork of it.

    Args:
        folder: Its folder; made if it is not there. It stays when the node stops, with the data.
        choose_ports: Returns ports to try when it starts for the first time; later it keeps them.
    """

    def __init__(self, folder: Path, *, choose_ports: Callable[[], NodePorts] = free_ports) -> None:
        self.folder = folder.absolute()
        self._choose_ports = choose_ports
        self._known: _Record | None = None
        self._entered_in = os.getpid()

    @classmethod
    def attach(cls, folder: Path) -> PrivateNode:
        """Return the node that another process, perhaps an ended one, started in ``folder``; it may have stopped.

        Raises:
            PrivateNodeError: No node was ever started there.
        """
        node = cls(folder)
        node._known = _Record.read(node.folder / _RECORD)
        return node

    @property
    def ports(self) -> NodePorts:
        """Its ports."""
        return self._record.ports

    @property
    def amqp_url(self) -> str:
        """The AMQP URL of its virtual host ``/``, with the password."""
        record = self._record
        return f"amqp://{record.username}:{record.password}@{LOOPBACK}:{record.ports.amqp}//"

    @property
    def management_url(self) -> str:
        """The management API's URL; user and password are those of ``amqp_url``."""
        return f"http://{LOOPBACK}:{self._record.ports.management}"

    @property
    def version(self) -> str:
        """RabbitMQ's version, such as ``4.3.6``."""
        return self._record.version

    @property
    def is_running(self) -> bool:
        """Whether the node runs; an epmd that was left alone does not count."""
        return self._known is not None and any(one.name != _EPMD for one in self.processes())

    def processes(self) -> list[process.ProcessHandle]:
        """Return the running processes of the node: shell, Erlang VM, its helpers, epmd."""
        return process.marked(MARK_VARIABLE, self._record.mark)

    def start(self, deadline_seconds: float = _START_SECONDS) -> Self:
        """Start it and wait until it answers; in a folder where a node has been, with its ports and data.

        Raises:
            BrokerNotFound: There is no rabbitmq-server on this machine.
            PrivateNodeError: A node runs here already, or it did not answer within ``deadline_seconds``. The text
                ends with the log's last lines, and nothing is left running.
        """
        if self._known is None and (self.folder / _RECORD).exists():
            self._known = _Record.read(self.folder / _RECORD)
        if self.is_running:
            raise PrivateNodeError(f"{self.folder}: a node runs here already; stop it or use another folder")
        give_up = time.monotonic() + deadline_seconds
        if self._known is None:
            self._start_first(give_up)
        else:
            self.kill()  # an epmd that outlived its node
            self._boot(self._known, give_up)
        return self

    def stop(self) -> None:
        """Stop it in order, wait until its last process has ended, and keep the data. Not running is fine.

        Raises:
            PrivateNodeError: A process of it is still there, even after SIGKILL.
        """
        give_up = time.monotonic() + _STOP_SECONDS
        for one in self._machines():
            one.send(signal.SIGTERM)
        while self._machines() and time.monotonic() < give_up:
            time.sleep(_PAUSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL to all of its processes. The data stays.

        Raises:
            PrivateNodeError: A process of it is still there after 10 s.
        """
        left = process.kill_all(self.processes, _KILL_SECONDS)
        if left:
            pids = ", ".join(str(one.pid) for one in left)
            raise PrivateNodeError(f"{self.folder}: processes {pids} of the node did not end; look at them")

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it on the same ports with the same data.

        Raises:
            PrivateNodeError: It did not stop, or does not start again.
        """
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self._entered_in = os.getpid()
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() == self._entered_in:
            self.stop()

    @property
    def _record(self) -> _Record:
        if self._known is None:
            raise PrivateNodeError(f"{self.folder}: the private node was never started; call start() first")
        return self._known

    def _machines(self) -> list[process.ProcessHandle]:
        """Return the Erlang VM: it alone stops in order at SIGTERM; without its helpers it would crash."""
        return [one for one in self.processes() if one.name == _ERLANG_VM]

    def _start_first(self, give_up: float) -> None:
        server = find_server(os.environ.get("PATH", ""))
        for _ in range(_ATTEMPTS - 1):
            record = self._new_record(server)
            try:
                return self._boot(record, give_up)
            except PrivateNodeError:
                if not record.ports.taken():  # our own have ended: whoever listens there now was first
                    raise
                shutil.rmtree(self.folder / "data")
        return self._boot(self._new_record(server), give_up)

    def _new_record(self, server: Path) -> _Record:
        return _Record(
            mark=secrets.token_hex(16),
            server=str(server),
            ports=self._choose_ports(),
            username="broker-app",
            password=secrets.token_urlsafe(24),
        )

    def _boot(self, record: _Record, give_up: float) -> None:
        self._known = record
        self._write_files(record)
        try:
            self._launch(record)
            version = self._wait(give_up)
        except BaseException:  # an interrupt from the keyboard, too, must leave nothing running
            self.kill()
            raise
        self._known = replace(record, version=version)
        self._known.write(self.folder / _RECORD)

    def _write_files(self, record: _Record) -> None:
        for folder in (self.folder, *(self.folder / name for name in ("conf.d", "data", "home", "log"))):
            make_private_folder(folder)
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management].\n")
        write_private(self.folder / "rabbitmq.conf", rabbitmq_conf(record.ports, record.username, record.password))
        record.write(self.folder / _RECORD)  # before the launch: whoever finds a crashed run can end its node

    def _launch(self, record: _Record) -> None:
        server = Path(record.server)
        log = self.folder / "log" / "startup.log"
        with open(log, "wb", opener=open_private) as output:
            subprocess.run(
                # The shell ends at once: the node is nobody's child, and looks the same to whoever attaches to it.
                ["/bin/sh", "-c", 'exec "$0" &', server],
                cwd=self.folder,
                env=environment(os.environ, self.folder, server, record.ports, record.mark),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt from the keyboard is for us, not for the node
                check=True,
            )

    def _wait(self, give_up: float) -> str:
        remaining_seconds = max(0.0, give_up - time.monotonic())
        try:
            version = wait_for_version(self.amqp_url, remaining_seconds, self._check_alive)
        except BrokerNotFound as error:
            raise PrivateNodeError(
                f"{self.folder}: the private node did not answer in time ({error}); its log: {self._log_tail()}"
            ) from error
        remaining_seconds = max(0.0, give_up - time.monotonic())
        if not wait_for_management(self.management_url, self.amqp_url, remaining_seconds):
            raise PrivateNodeError(f"{self.folder}: the management API is silent; its log: {self._log_tail()}")
        return version

    def _check_alive(self) -> None:
        if not self.is_running:
            raise PrivateNodeError(f"{self.folder}: the node ended while it started; its log: {self._log_tail()}")

    def _log_tail(self) -> str:
        lines: list[str] = []
        for path in sorted((self.folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime):
            lines += [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:]) or "(empty)"
