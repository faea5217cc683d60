"""A worker whose metrics are measured, and what asks for them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from benchmarks.probe import READY
from benchmarks.topologies import QUEUE
from benchmarks.waiting import wait_for
from benchmarks.worker import ROOT, worker_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.record import Record

SLOTS = 8
_READY_SECONDS = 120.0
_STOP_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class MeasuredWorker:
    """A worker that waits for its turn.

    Attributes:
        url: Of its broker.
        pid: Of its main process; with threads there is no other.
        record: Where its tasks write.
        environment: Of its process.
    """

    url: str
    pid: int
    record: Record
    environment: Mapping[str, str]

    def stop(self) -> None:
        """Stop it with SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it work again."""
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def measured_worker(
    bench: Bench, app: str, options: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> Iterator[MeasuredWorker]:
    """Run a worker with threads on a virtual host of its own for the length of a block.

    Args:
        bench: The surroundings.
        app: An app of `benchmarks.apps`.
        options: Further ones of ``celery worker``.
        settings: Of broker-app, as variables of the environment.
    """
    with (
        bench.virtual_host() as url,
        bench.record() as record,
        tempfile.TemporaryDirectory(dir=bench.folder) as state,
    ):
        environment = worker_environment(url, record.path) | {"BROKER_APP_STATE_DIR": state, **(settings or {})}
        command = ["-m", "celery", "-A", f"benchmarks.apps:{app}", "worker", "-l", "WARNING", "-P", "threads"]
        command += ["-c", str(SLOTS), "-Q", QUEUE, "-n", "cost@localhost", *options]
        with running(command, environment, record.path.with_name("worker.log")) as process:
            wait_for(lambda: bool(record.starts(READY)), _READY_SECONDS, lambda: "a ready worker")
            worker = MeasuredWorker(url, process.pid, record, environment)
            try:
                yield worker
            finally:
                worker.go_on()


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with these arguments for the length of a block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def free_port() -> int:
    """Return a port of this host that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def scrape(url: str) -> bytes:
    """Return what a server of metrics answers."""
    with urlopen(url, timeout=60) as answer:  # noqa: S310 - our own server
        body: bytes = answer.read()
    return body


@contextmanager
def scraped(port: int, every_seconds: float) -> Iterator[str]:
    """Wait for a metrics server, and scrape it again and again for the length of a block."""
    url, end = f"http://127.0.0.1:{port}/metrics", threading.Event()

    def answers() -> bool:
        try:
            return bool(scrape(url))
        except OSError:
            return False

    def ask() -> None:
        while not end.wait(every_seconds):
            scrape(url)

    wait_for(answers, _READY_SECONDS, lambda: f"metrics on {url}")
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield url
    finally:
        end.set()
        thread.join()
