"""Private RabbitMQ node: runs the installed program in one folder, reachable from this machine only."""

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
_STOP_SECONDS = 30.0  # with the management plugin, 3.10 needs 6 s for a clean stop
_KILL_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_ATTEMPTS = 3  # to find free ports before another process takes them
_LOG_LINES = 8
_ERLANG_VM = "beam.smp"
_EPMD = "epmd"
_RECORD = "node.json"


@dataclass(frozen=True)
class _Record:
    """The facts needed to reach, restart or end the node; stored in the folder for other processes."""

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

    It does not need root. The node outlives the process that started it and runs until it is stopped. As a context
    manager it is stopped after the block, by the process that entered the block but not by its forks.

    Args:
        folder: The node's folder; created if missing. It is kept, with the data, when the node stops.
        choose_ports: Returns ports to try on the first start; later starts reuse them.
    """

    def __init__(self, folder: Path, *, choose_ports: Callable[[], NodePorts] = free_ports) -> None:
        self.folder = folder.absolute()
        self._choose_ports = choose_ports
        self._known: _Record | None = None
        self._entered_in = os.getpid()

    @classmethod
    def attach(cls, folder: Path) -> PrivateNode:
        """Return the node that another process started in ``folder``; neither of them needs to be running.

        Raises:
            PrivateNodeError: No node was ever started there.
        """
        node = cls(folder)
        node._known = _Record.read(node.folder / _RECORD)
        return node

    @property
    def ports(self) -> NodePorts:
        """The node's ports."""
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
        """True while the node runs; a leftover epmd does not count."""
        return self._known is not None and any(one.name != _EPMD for one in self.processes())

    def processes(self) -> list[process.ProcessHandle]:
        """Return the node's running processes: shell, Erlang VM, its helpers, epmd."""
        return process.marked(MARK_VARIABLE, self._record.mark)

    def start(self, deadline_seconds: float = _START_SECONDS) -> Self:
        """Start the node and wait until it responds. A later start reuses the ports and data in the folder.

        Raises:
            BrokerNotFound: There is no rabbitmq-server on this machine.
            PrivateNodeError: A node is already running in the folder, or the new one did not respond within
                ``deadline_seconds``. Nothing new is left running; the text ends with the last lines of the log.
        """
        if self._known is None and (self.folder / _RECORD).exists():
            self._known = _Record.read(self.folder / _RECORD)
        if self.is_running:
            raise PrivateNodeError(f"{self.folder}: a node is already running here; stop it or use another folder")
        give_up = time.monotonic() + deadline_seconds
        if self._known is None:
            self._start_first(give_up)
        else:
            self.kill()  # an epmd that outlived its node
            self._boot(self._known, give_up)
        return self

    def stop(self) -> None:
        """Stop the node cleanly, if it is running, and wait until all of its processes have ended. Keep the data.

        Raises:
            PrivateNodeError: One of its processes is still running, even after SIGKILL.
        """
        give_up = time.monotonic() + _STOP_SECONDS
        for one in self._machines():
            one.send(signal.SIGTERM)
        while self._machines() and time.monotonic() < give_up:
            time.sleep(_PAUSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all processes of the node, to simulate a power failure. Keep the data.

        Raises:
            PrivateNodeError: One of its processes is still running after 10 s.
        """
        left = process.kill_all(self.processes, _KILL_SECONDS)
        if left:
            pids = ", ".join(str(one.pid) for one in left)
            raise PrivateNodeError(f"{self.folder}: the node's processes {pids} survived SIGKILL; inspect them")

    def restart(self) -> None:
        """Stop the node, if it is running, and start it with the same ports and data.

        Raises:
            PrivateNodeError: The node did not stop or did not start again.
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
        """Return the Erlang VM processes. Only they get SIGTERM: the VM would crash if its helpers ended first."""
        return [one for one in self.processes() if one.name == _ERLANG_VM]

    def _start_first(self, give_up: float) -> None:
        server = find_server(os.environ.get("PATH", ""))
        for _ in range(_ATTEMPTS - 1):
            record = self._new_record(server)
            try:
                return self._boot(record, give_up)
            except PrivateNodeError:
                if not record.ports.taken():  # our node has ended, so a port in use belongs to another process
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
        except BaseException:  # even KeyboardInterrupt must leave nothing running
            self.kill()
            raise
        self._known = replace(record, version=version)
        self._known.write(self.folder / _RECORD)

    def _write_files(self, record: _Record) -> None:
        for folder in (self.folder, *(self.folder / name for name in ("conf.d", "data", "home", "log"))):
            make_private_folder(folder)
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management].\n")
        write_private(self.folder / "rabbitmq.conf", rabbitmq_conf(record.ports, record.username, record.password))
        record.write(
            self.folder / _RECORD
        )  # before the launch, so that a later run can end the node of a crashed one

    def _launch(self, record: _Record) -> None:
        server = Path(record.server)
        log = self.folder / "log" / "startup.log"
        with open(log, "wb", opener=open_private) as output:
            subprocess.run(
                # The shell exits at once, so the node is not our child and is the same for every attached process.
                ["/bin/sh", "-c", 'exec "$0" &', server],
                cwd=self.folder,
                env=environment(os.environ, self.folder, server, record.ports, record.mark),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C must reach this process only, not the node
                check=True,
            )

    def _wait(self, give_up: float) -> str:
        remaining_seconds = max(0.0, give_up - time.monotonic())
        try:
            version = wait_for_version(self.amqp_url, remaining_seconds, self._check_alive)
        except BrokerNotFound as error:
            raise PrivateNodeError(
                f"{self.folder}: the private node did not respond in time ({error}); its log: {self._log_tail()}"
            ) from error
        remaining_seconds = max(0.0, give_up - time.monotonic())
        if not wait_for_management(self.management_url, self.amqp_url, remaining_seconds):
            raise PrivateNodeError(
                f"{self.folder}: the management API does not respond; its log: {self._log_tail()}"
            )
        return version

    def _check_alive(self) -> None:
        if not self.is_running:
            raise PrivateNodeError(f"{self.folder}: the node ended during start-up; its log: {self._log_tail()}")

    def _log_tail(self) -> str:
        lines: list[str] = []
        for path in sorted((self.folder / "log").glob("*.log"), key=lambda path: path.stat().st_mtime):
            lines += [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:]) or "(empty)"
