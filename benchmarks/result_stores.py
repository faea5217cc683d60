"""Private result stores: Redis and PostgreSQL, started for one benchmark where they are installed."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_READY_SECONDS = 30.0
_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
_POSTGRES_USER = "postgres"


@contextmanager
def redis_url() -> Iterator[str | None]:
    """Run Redis without persistence for the length of a block; None if it is not installed."""
    server = shutil.which("redis-server")
    if server is None:
        yield None
        return
    port = _free_port()
    with _running([server, "--port", str(port), "--save", "", "--bind", "127.0.0.1"], port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgresql_url() -> Iterator[str | None]:
    """Run PostgreSQL, as it is installed, for the length of a block; None if it is not installed."""
    if not _POSTGRES:
        yield None
        return
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        user = None if os.geteuid() else _POSTGRES_USER  # it refuses to run as root
        if user is not None:
            shutil.chown(folder, pwd.getpwnam(user).pw_uid)
        name, bin_folder = user or getpass.getuser(), _POSTGRES[-1]
        command = [str(bin_folder / "initdb"), "-D", folder, "-A", "trust", "-U", name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user)
        server = [str(bin_folder / "postgres"), "-D", folder, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
        with _running(server, port, user):
            yield f"db+postgresql+psycopg://{name}@127.0.0.1:{port}/postgres"


@contextmanager
def _running(command: Sequence[str], port: int, user: str | None = None) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user) as process:
        try:
            _wait_for(port)
            yield
        finally:
            process.send_signal(signal.SIGINT)  # at SIGTERM, PostgreSQL waits for its clients to leave


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
