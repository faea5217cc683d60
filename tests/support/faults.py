"""Faults of workers, publishers and brokers: each function causes one, and ends it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from ending import END_SECONDS

if TYPE_CHECKING:
    from storm import Storm

OUT_SECONDS = 3
"""Duration of an outage."""

HOLE_SECONDS = 14
"""Longer than both ends need to give up a connection on which nothing passes."""


def kill_worker(storm: Storm) -> None:
    """End a worker and its processes as the out-of-memory killer would, and start another."""
    os.killpg(storm.worker.process.pid, signal.SIGKILL)
    storm.worker.process.wait(END_SECONDS)
    storm.start_worker()


def kill_child(storm: Storm) -> None:
    """Kill one process of a prefork pool in the middle of its work; the worker starts another."""
    listed = subprocess.run(
        ["pgrep", "-P", str(storm.worker.process.pid)],  # noqa: S607 - procps
        capture_output=True,
        text=True,
        check=True,
        timeout=END_SECONDS,
    )
    os.kill(int(random.choice(listed.stdout.split())), signal.SIGKILL)  # noqa: S311 - any will do


def stop_worker(storm: Storm) -> None:
    """Tell a worker to end in the middle of its work, and start another when it has."""
    storm.worker.process.terminate()
    assert storm.worker.process.wait(END_SECONDS) == 0
    storm.start_worker()


def quit_worker(storm: Storm) -> None:
    """End a worker at once by SIGQUIT, and start another."""
    storm.worker.process.send_signal(signal.SIGQUIT)
    assert storm.worker.process.wait(END_SECONDS) == 1
    storm.start_worker()


def cut_network(storm: Storm) -> None:
    """Reset every connection, of the worker and of the publisher."""
    storm.network.cut()
    storm.publishers.cut()


def swallow_worker(storm: Storm) -> None:
    """Let nothing pass between worker and broker, while neither learns that the other is gone."""
    storm.network.freeze()
    time.sleep(HOLE_SECONDS)
    storm.network.thaw()


def swallow_publisher(storm: Storm) -> None:
    """Let nothing pass between publisher and broker, while neither learns that the other is gone."""
    storm.publishers.freeze()
    time.sleep(HOLE_SECONDS)
    storm.publishers.thaw()


def half_open(storm: Storm) -> None:
    """Let the connections that there are become black holes; new ones are carried."""
    storm.network.freeze(new_too=False)
    storm.publishers.freeze(new_too=False)


def kill_broker(storm: Storm) -> None:
    """End the broker by SIGKILL and start it again."""
    storm.broker.kill()
    time.sleep(OUT_SECONDS)
    storm.broker.start()


def restart_broker(storm: Storm) -> None:
    """Stop the broker in order, as for an update, and start it again."""
    storm.control("stop_app")
    time.sleep(OUT_SECONDS)
    storm.control("start_app")


def close_connections(storm: Storm) -> None:
    """Close every connection as an operator would."""
    storm.control("close_all_connections", "--vhost", "/", "an operator closes it")


def raise_memory_alarm(storm: Storm) -> None:
    """Let the broker stop reading from who publishes, for want of memory."""
    storm.control("set_vm_memory_high_watermark", "absolute", "1000000")
    time.sleep(OUT_SECONDS)
    storm.control("set_vm_memory_high_watermark", "0.6")


def raise_disk_alarm(storm: Storm) -> None:
    """Let the broker stop reading from who publishes, for want of disk."""
    storm.control("set_disk_free_limit", "900000GB")
    time.sleep(OUT_SECONDS)
    storm.control("set_disk_free_limit", "50MB")
