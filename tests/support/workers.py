"""Real Celery workers, as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps import PATIENCE, TWO_QUEUES
from lean_celery import python_path
from waiting import wait_until

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 60.0
STOP_SECONDS = 90.0


@dataclass
class RunningWorker:
    """A worker that is ready.

    Attributes:
        process: Its main process, head of a process group of its own.
        log: What it wrote.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End it and its pool's processes with SIGKILL."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """End it in order and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def environment(folder: Path, url: str, **settings: str) -> dict[str, str]:
    """Return the environment of a process with a broker and a state folder of its own."""
    chosen = {"BROKER_APP_BROKER_URL": url, "BROKER_APP_STATE_DIR": str(folder / "state")}
    return dict(os.environ, PYTHONPATH=python_path(Path(__file__).parent), **chosen, **settings)


@contextmanager
def running_worker(
    folder: Path, url: str, *options: str, name: str = "worker", **settings: str
) -> Iterator[RunningWorker]:
    """Start ``celery -A workload worker`` and wait until it is ready, or has died; it is ended with the block."""
    log = folder / f"{name}.log"
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "workload",
        "worker",
        "-l",
        "INFO",
        "-n",
        f"{name}@%h",
        *options,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=environment(folder, url, **settings),
            cwd=folder,
            start_new_session=True,
        )
    worker = RunningWorker(process, log)
    try:
        wait_until(
            lambda: b" ready." in log.read_bytes() or process.poll() is not None,  # its first task may kill it
            START_SECONDS,
            f"the worker to be ready: {log}",
        )
        yield worker
    finally:
        try:
            worker.stop()
        except subprocess.TimeoutExpired:
            worker.kill()


def client(folder: Path, url: str) -> BrokerApp:
    """Return an app for this process with the worker's broker and state folder; it knows tasks by name only."""
    settings = folder / "client.toml"
    head = f'broker_url = "{url}"\nstate_dir = "{folder / "state"}"\n'
    settings.write_text(head + TWO_QUEUES + PATIENCE, encoding="utf-8")
    return BrokerApp("client", config=settings, set_as_current=False)
