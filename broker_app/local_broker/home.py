"""Where a broker that we started is written down, so that a later run can end it or go on with it.

Each has a folder of its own in ``<state_dir>/brokers``. Whoever started it holds a lock there for as long as it
lives: the kernel lets go of it even at SIGKILL, so a folder without a holder is what a crashed run left, or was
kept on purpose.
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
    """One broker that we started.

    Attributes:
        in_container: Whether it runs in Docker; if not, as a private node.
        url: Its AMQP URL with the password; empty until it has started.
        management_url: The management API's; None if it has none.
        how: A sentence for people.
        version: RabbitMQ's version.
        is_kept: Whether it is meant to outlive whoever started it.
    """

    in_container: bool
    url: str = field(default="", repr=False)
    management_url: str | None = None
    how: str = ""
    version: str = ""
    is_kept: bool = False


class BrokerHome:
    """The folder of one broker. Its name is the container's name too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    @classmethod
    def create(cls, state_dir: Path, record: BrokerRecord) -> BrokerHome:
        """Make a new folder, and hold it until this process ends or lets go of it."""
        name = f"broker-app-{secrets.token_hex(6)}"
        draft = cls(state_dir.absolute() / _FOLDER / f"{_DRAFT}{name}")
        make_private_folder(draft.folder)
        draft.write(record)
        draft.hold()
        home = cls(draft.folder.rename(draft.folder.with_name(name)))  # nobody sees it before it is held
        home._lock = draft._lock
        return home

    @classmethod
    def all(cls, state_dir: Path) -> list[BrokerHome]:
        """Return the folders of all brokers, held or not."""
        found = (state_dir.absolute() / _FOLDER).glob("[!.]*/")
        return [cls(folder) for folder in sorted(found)]

    @property
    def name(self) -> str:
        """The folder's name, unique on this machine for all practical purposes."""
        return self.folder.name

    def read(self) -> BrokerRecord:
        """Return what is written down.

        Raises:
            FileNotFoundError: The folder has been removed meanwhile.
        """
        return BrokerRecord(**json.loads((self.folder / _RECORD).read_text()))

    def write(self, record: BrokerRecord) -> None:
        """Write it down."""
        write_private(self.folder / _RECORD, json.dumps(asdict(record)))

    def hold(self) -> bool:
        """Take the lock, and return whether it was free.

        A fork of this process holds it too; a program that it executes, such as the node, does not.
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
        """Let go of it: from now on no run ends it unasked."""
        self.write(replace(self.read(), is_kept=True))
        self.release()

    def remove(self) -> None:
        """Remove the folder, and let go of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()  # only if it was the last
        self.release()

    def release(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
