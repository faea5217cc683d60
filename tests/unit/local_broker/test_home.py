"""The record of a broker that we started."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker_app.errors import BrokerNotFound
from broker_app.local_broker import BrokerSource, FoundBroker, attach_broker, find_broker
from broker_app.local_broker.home import BrokerHome, BrokerRecord

if TYPE_CHECKING:
    from pathlib import Path

RECORD = BrokerRecord(in_container=False, url="amqp://user:secret@127.0.0.1:1//", how="a broker")


def test_home_is_held_by_its_maker(tmp_path: Path) -> None:
    """A folder in use cannot be taken by another, who would end the broker in it."""
    home = BrokerHome.create(tmp_path, RECORD)
    (other,) = BrokerHome.all(tmp_path)
    assert other.read() == RECORD
    assert not other.hold()
    home.release()
    assert other.hold()
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_home_is_free_after_a_crash(tmp_path: Path) -> None:
    """A process that is killed lets go of its folder."""
    script = (
        "import os, pathlib, signal, sys; from broker_app.local_broker.home import *;"
        "BrokerHome.create(pathlib.Path(sys.argv[1]), BrokerRecord(False)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    (home,) = BrokerHome.all(tmp_path)
    assert home.hold()
    home.release()


def test_record_is_private(tmp_path: Path) -> None:
    """The file that holds the password can be read by its owner only."""
    home = BrokerHome.create(tmp_path, RECORD)
    mode = (home.folder / "broker.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    home.release()


def test_password_is_not_shown() -> None:
    """Printing a found broker or its record does not print the password."""
    assert "secret" not in repr(RECORD)
    assert "secret" not in repr(FoundBroker("amqp://user:secret@127.0.0.1//", None, "a broker", "4.3.6"))


def test_kept_broker_that_is_gone(tmp_path: Path) -> None:
    """A kept broker that does not answer any more is cleared away, and is not offered."""
    BrokerHome.create(tmp_path, RECORD).keep()
    assert attach_broker(tmp_path) is None
    assert BrokerHome.all(tmp_path) == []


def test_leftover_that_never_started(tmp_path: Path) -> None:
    """The remains of a run that crashed before its broker started are cleared away, in one announced line."""
    BrokerHome.create(tmp_path, RECORD).release()
    heard: list[str] = []
    with pytest.raises(BrokerNotFound):
        find_broker(tmp_path, announce=heard.append, ways=())
    assert len(heard) == 1
    assert heard[0].startswith("ended a broker left by an earlier run")
    assert BrokerHome.all(tmp_path) == []


def test_kept_broker_is_no_leftover(tmp_path: Path) -> None:
    """A kept broker is not ended by the next run."""
    BrokerHome.create(tmp_path, RECORD).keep()
    with pytest.raises(BrokerNotFound):
        find_broker(tmp_path, ways=())
    assert len(BrokerHome.all(tmp_path)) == 1


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    """If there is no way to get a broker, one line says which packages to install."""
    with pytest.raises(BrokerNotFound, match=r"install Docker and the image .*apt-get install rabbitmq-server"):
        find_broker(tmp_path, ways=())


def test_given_broker_is_the_only_one(tmp_path: Path) -> None:
    """A broker that was given and does not answer is an error without its password; no other is started."""
    with pytest.raises(BrokerNotFound, match=r"127\.0\.0\.1:1") as caught:
        find_broker(tmp_path, url="amqp://user:secret@127.0.0.1:1//", ways=tuple(BrokerSource))
    assert "secret" not in str(caught.value)
