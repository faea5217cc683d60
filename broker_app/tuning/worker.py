"""Tuned worker: a separate process that is kept supplied with messages while it is measured."""

from __future__ import annotations

import importlib.util
import itertools
import random
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, delete_queue, pipelined_channel, wanted_topology
from broker_app.errors import TuningError
from broker_app.settings.private_files import open_private
from broker_app.tuning.task_log import TaskLog
from broker_app.tuning.task_log_writer import BOOTSTRAP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery.canvas import Signature

    from broker_app.tuning.load import TaskLoad
    from broker_app.tuning.sandbox import Sandbox

START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_PAUSE_SECONDS = 0.02
_LOG_LINES = 8
_MODULES = {"gevent": "gevent", "asyncio": "greenlet"}


class TunedWorker:
    """A running worker with its task log.

    Attributes:
        slots: Celery's ``-c``.
        pid: Its main process.
        record: Its task log.
        published: Number of messages published so far.
    """

    def __init__(
        self, sandbox: Sandbox, queue: str, load: TaskLoad, slots: int, process: subprocess.Popen[bytes]
    ) -> None:
        self.slots = slots
        self.pid = process.pid
        self.published = 0
        self._sandbox = sandbox
        self._process = process
        self._log = sandbox.folder / "worker.log"
        self.record = TaskLog(sandbox.folder / "record")
        self._queue = queue
        self._signatures = load.signatures(sandbox.app, queue)

    @property
    def waiting(self) -> int:
        """Lower bound of the waiting messages; those that slots may hold are not counted."""
        return self.published - len(self.record.runs) - self.slots

    def feed(self, count: int) -> None:
        """Publish messages, each confirmed.

        Raises:
            PublishError: The broker did not accept them.
        """
        self._publish(itertools.islice(self._signatures, count))

    def feed_at_random(self, rate: float, seconds: float) -> None:
        """Publish at random intervals, on average ``rate`` per second, for some seconds (a Poisson process)."""
        dice = random.Random(self.slots)  # noqa: S311 - not security-relevant
        begin = time.monotonic()
        due = dice.expovariate(rate)
        while due < seconds:
            self.pause(max(0.0, begin + due - time.monotonic()))
            count = 0
            while due <= time.monotonic() - begin:
                count, due = count + 1, due + dice.expovariate(rate)
            self.feed(count)  # a complete bulk each time: an open one may hold messages back

    def _publish(self, signatures: Iterator[Signature]) -> None:
        with self._sandbox.app.publish_many(signatures) as publishing:
            totals = publishing.run()
        if totals.refused or totals.unknown:
            raise TuningError(f"the broker did not accept {totals.refused + totals.unknown} messages")
        self.published += totals.accepted

    def discard(self) -> None:
        """Purge the waiting messages."""
        with connect(self._sandbox.app) as connection, pipelined_channel(connection, self._queue) as channel:
            channel.queue_purge(self._sandbox.app.settings.routing_table().queue(self._queue).broker_name)

    def pause(self, seconds: float) -> None:
        """Sleep, then read the task log.

        Raises:
            TuningError: The worker ended, or a task failed.
        """
        time.sleep(seconds)
        self.record.read()
        if self._process.poll() is not None:
            raise TuningError(f"the worker ended with code {self._process.returncode}: {log_tail(self._log)}")

    def wait_until_ready(self) -> None:
        """Wait until the worker consumes.

        Raises:
            TuningError: The worker ended, or did not become ready in time.
        """
        give_up = time.monotonic() + START_SECONDS
        while not self.record.is_ready:
            if time.monotonic() > give_up:
                raise TuningError(f"the worker is not ready after {START_SECONDS:g} s: {log_tail(self._log)}")
            self.pause(_PAUSE_SECONDS)


def check_pool(pool: str) -> None:
    """Refuse a pool that is not installed.

    Raises:
        TuningError: The pool's package is missing; the message names it.
    """
    if not is_installed(pool):
        raise TuningError(f'--pool {pool}: it is not installed; pip install "broker-app[{pool}]"')


def is_installed(pool: str) -> bool:
    """Return whether the module that a pool needs is installed."""
    return pool not in _MODULES or importlib.util.find_spec(_MODULES[pool]) is not None


@contextmanager
def tuned_worker(
    sandbox: Sandbox,
    app_name: str,
    queue: str,
    load: TaskLoad,
    pool_and_slots: tuple[str, int],
    *,
    prefetch: int | None = None,
) -> Iterator[TunedWorker]:
    """Start a worker on a fresh queue, and stop it when the block ends.

    Args:
        sandbox: The sandbox to run in.
        app_name: Celery's ``-A``.
        queue: The queue's name in the settings.
        load: The load to publish.
        pool_and_slots: Celery's ``-P`` and ``-c``.
        prefetch: Messages per slot; None for the queue's setting.

    Raises:
        TuningError: The worker did not start.
    """
    pool, slots = pool_and_slots
    with connect(sandbox.app) as connection:
        delete_queue(connection, sandbox.app.settings.routing_table().queue(queue).broker_name)
        declare_topology(connection, wanted_topology(sandbox.app.settings))
    (sandbox.folder / "record").unlink(missing_ok=True)
    process = _start(sandbox, app_name, queue, _worker_options(sandbox, queue, pool, slots, prefetch))
    try:
        worker = TunedWorker(sandbox, queue, load, slots, process)
        worker.wait_until_ready()
        yield worker
    finally:
        _stop(sandbox, process)


def log_tail(log: Path) -> str:
    """Return the last lines of a log as a single line."""
    with suppress(FileNotFoundError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:]) or "its log is empty"
    return "it has no log"


def _worker_options(sandbox: Sandbox, queue: str, pool: str, slots: int, prefetch: int | None) -> list[str]:
    held = sandbox.app.settings.queues[queue].prefetch if prefetch is None else prefetch
    options = [f"--pool={pool}", f"--concurrency={slots}"]
    return options if held == "auto" else [*options, f"--prefetch-multiplier={held}"]


def _start(sandbox: Sandbox, app_name: str, queue: str, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BOOTSTRAP, str(sandbox.folder / "record"), "-A", app_name, "worker"]
    command += [f"--queues={queue}", *options, "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    command += ["-n", f"tune-{sandbox.token}@%h"]
    log = sandbox.folder / "worker.log"
    with open(log, "wb", opener=open_private) as output:
        return subprocess.Popen(
            command,
            env=sandbox.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C goes only to this process, which then stops the worker
        )


def _stop(sandbox: Sandbox, process: subprocess.Popen[bytes]) -> None:
    """Stop the worker, giving running tasks a moment to finish; then kill its remaining processes."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        sandbox.end_processes()
