"""A host as an operator has it: a project folder with its settings, a state folder, and the commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ending import Process, outputs
from waiting import wait_until

from broker_app.fleet.processes import find_workers, kill
from broker_app.worker.heartbeat_file import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(sys.executable).parent
COMMAND_SECONDS = 240.0

SETTINGS = """
[queues.default.fleet]
concurrency = 2
[queues.lopri.fleet]
concurrency = 3
"""


WAITING = """
import os, time
from broker_app import BrokerApp
from celery.signals import celeryd_after_setup
app = BrokerApp("shop")

@celeryd_after_setup.connect
def wait(sender, **_kwargs):
    while not os.path.exists("go"):
        time.sleep(0.05)
"""
"""A project whose workers are not ready before the file ``go`` exists."""


@dataclass(frozen=True)
class Host:
    """The folder in which the commands of a test run.

    Attributes:
        folder: The project folder, current for all commands.
        state: The state folder.
        url: The broker.
    """

    folder: Path
    state: Path
    url: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands."""
        ours = {"BROKER_APP_BROKER_URL": self.url, "BROKER_APP_STATE_DIR": str(self.state)}
        return os.environ | ours | {"BROKER_APP_CONFIG": "broker.toml"}

    def write(self, settings: str) -> None:
        """Write the settings file."""
        (self.folder / "broker.toml").write_text(settings)

    def popen(self, *command: str, output: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command and do not wait for it; what it prints goes into pipes, or all into a file."""
        return Process(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.popen(*command) as process:
            out, err = outputs(process, COMMAND_SECONDS)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def fleet(self, *arguments: str, app: str = "broker_app") -> subprocess.CompletedProcess[str]:
        """Run ``broker-app fleet``."""
        return self.run(str(SCRIPTS / "broker-app"), "-A", app, "fleet", *arguments)

    def start(self, *arguments: str, app: str = "broker_app") -> str:
        """Run ``broker-app fleet start``, which must succeed, and return what it printed."""
        done = self.fleet("start", *arguments, "--wait", "180", app=app)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(
        self, *queues: str, app: str = "broker_app", answer_seconds: float = 30
    ) -> dict[str, dict[str, Any]]:
        """Return the nodes of ``broker-app fleet status --json`` by their name before the host.

        Args:
            queues: Of which queues; all by default.
            app: Whose nodes.
            answer_seconds: How long a node has for its answer; it is short for one that gives none.
        """
        done = self.fleet("status", *queues, "--json", "--timeout", str(answer_seconds), app=app)
        nodes = json.loads(done.stdout)["nodes"]
        assert json.loads(done.stdout)["is_complete"] == (done.returncode == 0)
        return {node["node"].partition("@")[0]: node for node in nodes}

    def workers(self, app: str = "broker_app") -> dict[str, int]:
        """Return the pids of the workers that run, by their name before the host."""
        return {stem: found[0].pid for stem, found in find_workers(self.state / "run" / app).items()}

    def consuming(self, app: str = "broker_app") -> dict[str, int]:
        """Return the pids of the workers that consume, as they say themselves: cheaper than a command."""
        run, workers = self.state / "run" / app, self.workers(app)
        signs = {stem: Heartbeat.read(run / f"{stem}.alive") for stem in workers}
        consumers = {stem: sign.pid for stem, sign in signs.items() if sign and sign.queues}
        return dict(workers.items() & consumers.items())


@contextmanager
def host(folder: Path, url: str, state: Path | None = None) -> Iterator[Host]:
    """Make a host; every worker with a pid file in a folder ``run`` of it is ended with the block."""
    folder.mkdir(exist_ok=True)
    made = Host(folder, state or folder / "state", url)
    made.write(SETTINGS)
    try:
        yield made
    finally:
        wait_until(lambda: not _kill_all(made), 30, "the end of the test's workers")


def _kill_all(made: Host) -> list[int]:
    runs = [*made.state.glob("run/*"), made.folder / "run"]
    pids = [worker.pid for run in runs for found in find_workers(run).values() for worker in found]
    for pid in pids:
        kill(pid)
    return pids
