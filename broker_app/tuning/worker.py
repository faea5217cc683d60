"""One worker under measurement: a process of its own, fed so that no slot waits for a message."""

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
_MODULES = {"gevent": "gevent"}


class TunedWorker:
    """A worker that runs, its record, and what was published for it.

    Attributes:
        slots: Its ``-c``.
        pid: Of its main process.
        record: What it writes down.
        published: Messages so far.
    """

    def __init__(
        self, place: Sandbox, queue: str, load: TaskLoad, slots: int, process: subprocess.Popen[bytes]
    ) -> None:
        self.slots = slots
        self.pid = process.pid
        self.published = 0
        self._place = place
        self._process = process
        self._log = place.folder / "worker.log"
        self.record = TaskLog(place.folder / "record")
        self._queue = queue
        self._signatures = load.signatures(place.app, queue)

    @property
    def waiting(self) -> int:
        """Messages that wait, at least; one that a slot may hold by now is not counted."""
        return self.published - len(self.record.runs) - self.slots

    def feed(self, count: int) -> None:
        """Publish messages, each confirmed.

        Raises:
            PublishError: The broker does not take them.
        """
        self._publish(itertools.islice(self._signatures, count))

    def feed_at_random(self, rate: float, seconds: float) -> None:
        """Publish at random moments, ``rate`` a second in the mean, for some seconds (a Poisson process)."""
        dice = random.Random(self.slots)  # noqa: S311 - arrivals, no secret
        begin = time.monotonic()
        due = dice.expovariate(rate)
        while due < seconds:
            self.pause(max(0.0, begin + due - time.monotonic()))
            count = 0
            while due <= time.monotonic() - begin:
                count, due = count + 1, due + dice.expovariate(rate)
            self.feed(count)  # each time to its end: a bulk may hold back what it is given slowly

    def _publish(self, signatures: Iterator[Signature]) -> None:
        with self._place.app.publish_many(signatures) as publishing:
            totals = publishing.run()
        if totals.refused or totals.unknown:
            raise TuningError(f"the broker did not take {totals.refused + totals.unknown} messages")
        self.published += totals.accepted

    def discard(self) -> None:
        """Throw away what waits, and wait for what runs."""
        with connect(self._place.app) as connection, pipelined_channel(connection, self._queue) as channel:
            channel.queue_purge(self._place.app.settings.routing_table().queue(self._queue).broker_name)

    def pause(self, seconds: float) -> None:
        """Let time pass, and read what the worker wrote.

        Raises:
            TuningError: The worker ended, or a task failed.
        """
        time.sleep(seconds)
        self.record.read()
        if self._process.poll() is not None:
            raise TuningError(f"the worker ended with code {self._process.returncode}: {log_tail(self._log)}")

    def wait_until_ready(self) -> None:
        """Wait until it consumes.

        Raises:
            TuningError: It ended, or does not get ready.
        """
        give_up = time.monotonic() + START_SECONDS
        while not self.record.is_ready:
            if time.monotonic() > give_up:
                raise TuningError(f"the worker is not ready after {START_SECONDS:g} s: {log_tail(self._log)}")
            self.pause(_PAUSE_SECONDS)


def check_pool(pool: str) -> None:
    """Refuse a pool that is not installed.

    Raises:
        TuningError: With what to install.
    """
    if not is_installed(pool):
        raise TuningError(f'--pool {pool}: it is not installed; pip install "broker-app[{pool}]"')


def is_installed(pool: str) -> bool:
    """Return whether the module that a pool needs is there."""
    return pool not in _MODULES or importlib.util.find_spec(_MODULES[pool]) is not None


@contextmanager
def tuned_worker(
    place: Sandbox,
    app_name: str,
    queue: str,
    load: TaskLoad,
    pool_and_slots: tuple[str, int],
    *,
    prefetch: int | None = None,
) -> Iterator[TunedWorker]:
    """Start a worker on a fresh queue, and end it with the block.

    Args:
        place: Where.
        app_name: Celery's ``-A``.
        queue: As producers write it.
        load: What it will be fed.
        pool_and_slots: Celery's ``-P`` and ``-c``.
        prefetch: Messages for each slot; None for what the queue's settings say.

    Raises:
        TuningError: It does not start.
    """
    pool, slots = pool_and_slots
    with connect(place.app) as connection:
        delete_queue(connection, place.app.settings.routing_table().queue(queue).broker_name)
        declare_topology(connection, wanted_topology(place.app.settings))
    (place.folder / "record").unlink(missing_ok=True)
    process = _start(place, app_name, queue, _worker_options(place, queue, pool, slots, prefetch))
    try:
        worker = TunedWorker(place, queue, load, slots, process)
        worker.wait_until_ready()
        yield worker
    finally:
        _stop(place, process)


def log_tail(log: Path) -> str:
    """Return the last lines of a log as one."""
    with suppress(FileNotFoundError):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:]) or "its log is empty"
    return "it has no log"


def _worker_options(place: Sandbox, queue: str, pool: str, slots: int, prefetch: int | None) -> list[str]:
    held = place.app.settings.queues[queue].prefetch if prefetch is None else prefetch
    return [f"--pool={pool}", f"--concurrency={slots}", f"--prefetch-multiplier={held}"]


def _start(place: Sandbox, app_name: str, queue: str, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BOOTSTRAP, str(place.folder / "record"), "-A", app_name, "worker"]
    command += [f"--queues={queue}", *options, "--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    command += ["-n", f"tune-{place.token}@%h"]
    log = place.folder / "worker.log"
    with open(log, "wb", opener=open_private) as output:
        return subprocess.Popen(
            command,
            env=place.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # an interrupt from the keyboard is for us; we end it
        )


def _stop(place: Sandbox, process: subprocess.Popen[bytes]) -> None:
    """Let running tasks end for a moment, so that what they call is not cut off; then end all."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        place.end_processes()
