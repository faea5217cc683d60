"""Replays that are killed or cut off: every task is in its old place or its new one, or in both with one id."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from apps import app_maker, depth, take
from deaths import death_headers, declare, publish, task_headers
from mortal import mortal_broker
from proxy import TcpProxy
from waiting import wait_until

from broker_app import messages
from broker_app.errors import BrokerError
from broker_app.messages import CommandOptions, MessageFilter, channel, transfer
from broker_app.messages.scan import WINDOW
from broker_app.queues.headers import MAYBE_TWICE_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import AppMaker

    from broker_app import BrokerApp
    from broker_app.local_broker import FoundBroker

pytestmark = [pytest.mark.version, pytest.mark.timeout(240)]

DEAD = "default.dead"
COUNT = 1_000

REPLAY = """
import os, signal, sys
from pika.channel import Channel
from broker_app import BrokerApp, messages
from broker_app.messages import CommandOptions, MessageFilter

config, method, number, pattern = sys.argv[1:]
original, calls = getattr(Channel, method), []

def call(*arguments, **options):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(Channel, method, call)
app = BrokerApp("replay", config=config, set_as_current=False)
messages.replay(app, "default.dead", CommandOptions(MessageFilter(tasks=(pattern,))))
"""
"""It kills itself before a given call of a method."""


@pytest.fixture
def make_app(tmp_path: Path, fresh_vhost_url: str) -> Iterator[AppMaker]:
    """Return what makes apps on a virtual host that the test has for itself."""
    with app_maker(tmp_path, fresh_vhost_url) as maker:
        yield maker


def bury(app: BrokerApp) -> list[str]:
    """Put `COUNT` dead letters of two tasks, in turn, into the dead letters, and return their ids."""
    declare(app)
    messages = (
        task_headers(f"shop.t{number % 2}", f"{number}") | death_headers(queue="default")
        for number in range(COUNT)
    )
    return publish(app, DEAD, messages)


def settle(app: BrokerApp, ids: list[str]) -> None:
    """Judge both places after a replay that did not end: all are there, at most two windows of them twice.

    Then replay what is left: those that were in both places say so.
    """
    wait_until(lambda: (depth(app, DEAD) or 0) + (depth(app, "default") or 0) >= COUNT, 60, "all to be somewhere")
    first = [message.headers["id"] for message in take(app, "default")]
    assert messages.replay(app, DEAD, CommandOptions()).failed == 0
    second = {message.headers["id"]: message.headers for message in take(app, "default")}
    there = Counter(first) + Counter(second.keys())
    assert there.keys() == set(ids)
    doubled = {identity for identity, times in there.items() if times > 1}
    assert max(there.values()) <= 2
    assert len(doubled) <= 2 * WINDOW
    assert all(second[identity].get(MAYBE_TWICE_HEADER) for identity in doubled)


@pytest.mark.parametrize(
    ("method", "number", "pattern"),
    [
        ("basic_consume", 1, "*"),
        ("basic_publish", 1, "*"),
        ("basic_publish", 600, "*"),
        ("basic_ack", 1, "*"),
        ("basic_ack", 600, "*"),
        ("basic_publish", 300, "shop.t1"),
        ("basic_cancel", 2, "shop.t1"),
        ("basic_nack", 1, "shop.t1"),
        ("basic_nack", 10, "shop.t1"),
    ],
)
def test_a_replay_that_is_killed(make_app: AppMaker, method: str, number: int, pattern: str) -> None:
    """Killed before it reads, publishes, acknowledges or requeues, a replay loses no task and marks duplicates."""
    app = make_app()
    ids = bury(app)
    command = [sys.executable, "-c", REPLAY, str(app.config_file), method, str(number), pattern]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    settle(app, ids)


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_a_replay_that_is_cut_off(make_app: AppMaker, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The connection is cut, or goes dark: an error of one line, and nothing is lost."""
    for module in (channel, transfer):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 8.0)
    app = make_app()
    ids = bury(app)
    with TcpProxy.to(app.settings.broker_url.get_secret_value()) as proxy:
        behind = make_app(url=proxy.url(app.settings.broker_url.get_secret_value()))
        hit = {"cut": proxy.cut, "freeze": proxy.freeze}[fault]
        with pytest.raises(BrokerError) as caught:
            messages.replay(behind, DEAD, CommandOptions(told=lambda read, _: hit() if read > 500 else None))
        assert "\n" not in str(caught.value)
    settle(app, ids)


def test_a_broker_that_is_killed(tmp_path: Path, broker: FoundBroker) -> None:
    """If the broker dies in the middle of a replay and comes back, every task is there."""
    with mortal_broker(broker, tmp_path / "mortal") as mortal, app_maker(tmp_path, mortal.amqp_url) as make_app:
        app = make_app()
        ids = bury(app)
        with pytest.raises(BrokerError):
            messages.replay(
                app,
                DEAD,
                CommandOptions(MessageFilter(), told=lambda read, _: mortal.kill() if read > 500 else None),
            )
        mortal.start()
        settle(make_app(), ids)
