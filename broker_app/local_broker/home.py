"""Broker homes: one folder per started broker, so that a later run can end the broker or attach to it.

The folders are in ``<state_dir>/brokers``. The process that started a broker holds a lock in its folder until it
ends; the kernel releases the lock even after SIGKILL. A folder without a lock therefore belongs to a crashed run,
or to a broker that was kept on purpose.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from broker_app.settings.private_files import make_private_folder, open_private, write_private

if TYPE_CHECKING:
    from pathlib import Path

_FOLDER = "brokers"
_RECORD = "broker.json"
_LOCK = "owner.lock"
_DRAFT = "."


@dataclass(frozen=True)
class BrokerRecord:
    """The record of one started broker.

    Attributes:
        in_container: Whether the broker runs in Docker; otherwise it is a private node.
        url: Its AMQP URL with the password; empty until it has started.
        management_url: URL of its management API; None if it has none.
        how: A short description of the broker.
        version: RabbitMQ's version.
        is_kept: Whether the broker outlives the process that started it.
    """

    in_container: bool
    url: str = field(default="", repr=False)
    management_url: str | None = None
    how: str = ""
    version: str = ""
    is_kept: bool = False


class BrokerHome:
    """The folder of one broker. Its name is also the container's name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    @classmethod
    def create(cls, state_dir: Path, record: BrokerRecord) -> BrokerHome:
        """Create a folder and lock it until this process ends or releases it."""
        name = f"broker-app-{secrets.token_hex(6)}"
        draft = cls(state_dir.absolute() / _FOLDER / f"{_DRAFT}{name}")
        make_private_folder(draft.folder)
        draft.write(record)
        draft.hold()
        home = cls(draft.folder.rename(draft.folder.with_name(name)))  # invisible to other processes until locked
        home._lock = draft._lock
        return home

    @classmethod
    def all(cls, state_dir: Path) -> list[BrokerHome]:
        """Return the homes of all brokers, locked or not."""
        found = (state_dir.absolute() / _FOLDER).glob("[!.]*/")
        return [cls(folder) for folder in sorted(found)]

    @property
    def name(self) -> str:
        """The folder's name, in practice unique on this machine."""
        return self.folder.name

    def read(self) -> BrokerRecord:
        """Return the broker's record.

        Raises:
            FileNotFoundError: Another process has removed the folder.
        """
        return BrokerRecord(**json.loads((self.folder / _RECORD).read_text()))

    def write(self, record: BrokerRecord) -> None:
        """Write the broker's record."""
        write_private(self.folder / _RECORD, json.dumps(asdict(record)))

    def hold(self) -> bool:
        """Try to take the lock, and return whether it was free.

        A fork of this process inherits the lock; a program that it executes, such as the node, does not.
        """
        lock = open_private(self.folder / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def keep(self) -> None:
        """Mark the broker as kept and release the lock; from now on, no run ends it on its own."""
        self.write(replace(self.read(), is_kept=True))
        self.release()

    def remove(self) -> None:
        """Remove the folder and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()  # succeeds only for the last broker
        self.release()

    def release(self) -> None:
        """Release the lock, if held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
