"""Probes of a plain `celery worker`, as in a container."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from ledger import Ledger, ledger
from waiting import wait_until

from broker_app.broker.pauses import pause_queue

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 90


def said(shop: Ledger, what: str) -> tuple[int, str]:
    """Return exit code and words of a probe that names no node."""
    done = shop.run("broker-app", "-A", "shop", "probe", what)
    return done.returncode, done.stdout + done.stderr


def wait_for(shop: Ledger, what: str, code: int, words: str) -> None:
    """Return when a probe says so."""

    def is_said() -> bool:
        found, text = said(shop, what)
        return found == code and words in text

    wait_until(is_said, SECONDS, f"probe {what} to say {words!r}")


def test_a_plain_worker_is_probed_without_a_name(tmp_path: Path, fresh_vhost_url: str) -> None:
    """It is ready when it consumes, also while paused; one that hangs is not live."""
    with ledger(tmp_path, fresh_vhost_url) as shop:
        assert said(shop, "live")[0] == 1
        with shop.worker("-Q", "default,lopri", "-P", "threads", "-c", "1") as worker:
            wait_for(shop, "ready", 0, "one: ready, consumes default, lopri")
            assert said(shop, "live")[0] == 0
            pause_queue(shop.app(), "lopri")
            wait_for(shop, "ready", 0, "consumes default, lopri (paused)")
            worker.process.send_signal(signal.SIGSTOP)
            wait_for(shop, "live", 1, "its loop has not turned for")


def test_a_worker_without_a_broker_does_not_look_as_if_it_hung(tmp_path: Path) -> None:
    """It tries to connect for ever and says so: its loop turns, and only the broker is not heard."""
    with (
        ledger(tmp_path, "amqp://127.0.0.1:1//") as shop,
        shop.starting("-Q", "default", "-P", "threads", "-c", "1"),
    ):
        wait_for(shop, "live", 1, "has not heard from the broker yet")
