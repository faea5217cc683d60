"""dramatiq's side: an actor that its workers find as ``dramatiq benchmarks.dramatiq_side``."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.middleware import Middleware

from benchmarks.fleets import URL_VARIABLE
from benchmarks.probe import READY, write
from benchmarks.publishing import QuorumBroker
from benchmarks.topologies import QUEUE


class _Announcement(Middleware):
    """Writes down when a process consumes."""

    def after_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        write(READY, 0.0, time.time())


_broker = QuorumBroker(url=os.environ[URL_VARIABLE], confirm_delivery=True)
_broker.add_middleware(_Announcement())
dramatiq.set_broker(_broker)


@dramatiq.actor(queue_name=QUEUE)
def started(label: str, sleep_seconds: float = 0.0) -> None:
    """Write down this start, and wait as long as asked."""
    write(label, 0.0, time.time())
    if sleep_seconds:
        time.sleep(sleep_seconds)
