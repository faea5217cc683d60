"""A project whose task writes down each of its runs, and workers of it as processes that a test may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps import patient
from ending import Process, outputs
from lean_celery import python_path
from waiting import wait_until

from broker_app import BrokerApp

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(sys.executable).parent
READY_SECONDS = 60
STOP_SECONDS = 90

PROJECT = """
import json, os, pathlib, time
from broker_app import BrokerApp
from broker_app.queues.headers import MAYBE_TWICE_HEADER

app = BrokerApp("shop")
file = pathlib.Path(__file__).with_name("runs")


def write(request, what):
    line = json.dumps({"id": request.id, "what": what, "at": time.time(), "pid": os.getpid(),
                       "redelivered": bool((request.delivery_info or {}).get("redelivered")),
                       "maybe_twice": bool(request.get(MAYBE_TWICE_HEADER))})
    with file.open("a") as stream:
        stream.write(line + "\\n")  # one write of a short line with O_APPEND: whole, whoever writes beside it


@app.task(bind=True)
def note(self):
    write(self.request, "note")


@app.task(bind=True)
def nap(self, seconds):
    write(self.request, "begin")
    time.sleep(seconds)
    write(self.request, "end")


@app.task(bind=True)
def hold(self):
    write(self.request, "begin")
    while not file.with_name("go").exists():
        time.sleep(0.05)
    write(self.request, "end")


@app.task(bind=True, max_retries=None)
def again(self, countdown, times):
    write(self.request, "again")
    if self.request.retries < times:
        raise self.retry(countdown=countdown)


if "COROUTINES" in os.environ:
    import asyncio

    for task in ("note", "nap", "hold"):
        app.tasks.unregister(f"shop.{task}")

    @app.task(bind=True)
    async def note(self):
        write(self.request, "note")

    @app.task(bind=True)
    async def nap(self, seconds):
        write(self.request, "begin")
        await asyncio.sleep(seconds)
        write(self.request, "end")

    @app.task(bind=True)
    async def hold(self):
        write(self.request, "begin")
        while not file.with_name("go").exists():
            await asyncio.sleep(0.05)
        write(self.request, "end")
"""
"""``hold`` runs until the file ``go`` exists. In a worker with the pool asyncio the first three are coroutines."""


@dataclass
class Ledger:
    """The project in its folder.

    Attributes:
        folder: Current for all of its processes.
        url: The broker.
        variables: More environment for its processes.
    """

    folder: Path
    url: str
    variables: dict[str, str] = field(default_factory=dict)
    _apps: list[BrokerApp] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        ours = {
            "BROKER_APP_BROKER_URL": self.url,
            "BROKER_APP_STATE_DIR": str(self.folder / "state"),
            "BROKER_APP_CONFIG": "broker.toml",
            "PYTHONPATH": python_path(self.folder),
        }
        return os.environ | ours | self.variables

    def app(self, settings: str = "", **options: Any) -> BrokerApp:
        """Return an app of this process with the project's settings, and ``settings`` (TOML) before them."""
        file = self.folder / f"app-{len(self._apps)}.toml"
        state = json.dumps(str(self.folder / "state"))
        head = f"broker_url = {json.dumps(self.url)}\nstate_dir = {state}\n{settings}\n"
        file.write_text(head + patient((self.folder / "broker.toml").read_text()))
        app = BrokerApp("shop", config=file, set_as_current=False)
        app.conf.update(options)
        self._apps.append(app)
        return app

    def popen(self, *command: str, output: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command of the environment that the tests run in, in the project's folder."""
        more = {"COROUTINES": "1"} if "asyncio" in command else {}
        return Process(
            [str(SCRIPTS / command[0]), *command[1:]],
            cwd=self.folder,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, timeout_seconds: float = 100) -> subprocess.CompletedProcess[str]:
        """Run such a command to its end."""
        with self.popen(*command) as process:
            try:
                out, err = outputs(process, timeout_seconds)
            finally:
                kill(process)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @contextmanager
    def worker(self, *arguments: str, name: str = "one") -> Iterator[Worker]:
        """Run a worker for the length of a block, from when it is ready; it is killed at the end."""
        with self.starting(*arguments, name=name) as worker:
            worker.wait_until_ready()
            yield worker

    @contextmanager
    def starting(self, *arguments: str, name: str = "one") -> Iterator[Worker]:
        """Run a worker for the length of a block, from when its process is there."""
        log = self.folder / f"worker-{name}.log"
        number = sum(path.name.startswith(log.name) for path in self.folder.iterdir())
        log = log.with_name(f"{log.name}.{number}")
        with log.open("w") as output:
            command = ("celery", "-A", "shop", "worker", "-l", "INFO", "-n", f"{name}@%h", *arguments)
            process = self.popen(*command, output=output)
        try:
            yield Worker(process, log)
        finally:
            kill(process)
            process.wait(STOP_SECONDS)

    def runs(self, what: str = "note") -> dict[str, list[dict[str, Any]]]:
        """Return what was written down, by the task's id."""
        found = defaultdict(list)
        path = self.folder / "runs"
        for line in path.read_text().split("\n")[:-1] if path.exists() else []:  # the last may be half written
            entry = json.loads(line)
            if entry["what"] == what:
                found[entry["id"]].append(entry)
        return found

    def close(self) -> None:
        """Close what the apps of this process opened."""
        for app in self._apps:
            app.close()


@dataclass
class Worker:
    """A worker's process.

    Attributes:
        process: The process; the leader of its group, in which its children are too.
        log: All that it says.
    """

    process: subprocess.Popen[str]
    log: Path

    def wait_until_ready(self) -> None:
        """Return when it consumes."""
        wait_until(lambda: self._is_ready() or self._has_ended(), READY_SECONDS, f"a worker ({self.log})")
        assert not self._has_ended(), self.text()

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(STOP_SECONDS)

    def text(self) -> str:
        """Return all that it has said."""
        return self.log.read_text()

    def _is_ready(self) -> bool:
        return " ready." in self.text()

    def _has_ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def ledger(folder: Path, url: str, settings: str = "", **variables: str) -> Iterator[Ledger]:
    """Make the project; what it opened is closed with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shop.py").write_text(PROJECT)
    (folder / "broker.toml").write_text(settings or "[queues.default]\n[queues.lopri]\n")
    made = Ledger(folder, url, variables)
    try:
        yield made
    finally:
        made.close()


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and its children at once; fine if they have ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
