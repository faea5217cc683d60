"""A user's project on a host: its files, often those of a document, and the programs that run it."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from apps import PATIENCE
from documents import ROOT, blocks
from ending import ended
from fleets import SCRIPTS, SETTINGS, Host
from waiting import wait_until

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY_SECONDS = 90.0


class Project(Host):
    """A project folder with the queues `default` and `lopri`; what runs in it imports what is in it."""

    def put(self, file: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def put_document(self, name: str) -> None:
        """Write the Python files that a document shows."""
        for block in blocks(next((ROOT / "docs").rglob(name)), "python"):
            if block.file:
                self.put(block.file, block.text)

    def client(self) -> BrokerApp:
        """Return an app of this process with the project's broker, queues and results; it knows no task."""
        file = self.folder / "client.toml"
        head = f"broker_url = '{self.url}'\nstate_dir = '{self.state}'\n"
        file.write_text(head + SETTINGS + PATIENCE, encoding="utf-8")
        return BrokerApp("client", config=file, set_as_current=False)

    @contextmanager
    def running(self, name: str, *command: str, ready: str) -> Iterator[Path]:
        """Run a program of the environment for the length of a block, and yield its log.

        Args:
            name: Of the log.
            command: The program, as it is called, and its arguments.
            ready: What the log says when it is ready.
        """
        log = self.folder / f"{name}.log"
        with log.open("w", encoding="utf-8") as output:
            process = self.popen(str(SCRIPTS / command[0]), *command[1:], output=output)
        try:
            wait_until(
                lambda: ready in log.read_text(encoding="utf-8") or process.poll() is not None,
                READY_SECONDS,
                f"{command} to be ready: {log}",
            )
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield log
        finally:
            process.send_signal(signal.SIGTERM)
            ended(process)

    @contextmanager
    def worker(
        self, app: str, *options: str, pool: str = "threads", queues: str = "default,lopri"
    ) -> Iterator[Path]:
        """Run a worker with two slots for the length of a block, and yield its log."""
        command = ("celery", "-A", app, "worker", "-l", "INFO", "-P", pool, "-c", "2", "-n", f"{pool}@%h")
        with self.running(f"worker-{pool}", *command, "-Q", queues, *options, ready=" ready.") as log:
            yield log
