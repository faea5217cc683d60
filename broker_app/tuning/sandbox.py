"""Tuning sandbox: a temporary copy of the app's topology under a private prefix, with its own state folder.

The copy is complete: the tuned queue is declared like the real one, and tasks that publish other tasks reach only
the sandbox's copies of their queues.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING

from broker_app.app import BrokerApp
from broker_app.broker.access import connect
from broker_app.broker.declare import pipelined_channel, wanted_topology
from broker_app.broker.management import management_of
from broker_app.errors import BrokerError, TuningError
from broker_app.fleet.multi import child_environment
from broker_app.local_broker.process import kill_all, marked
from broker_app.queues.delay import UNITS, Lane
from broker_app.queues.spec import check_queue_name
from broker_app.settings import CONFIG_VARIABLE, ENV_PREFIX
from broker_app.settings.private_files import make_private_folder, open_private, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import amqp

    from broker_app.settings import Settings

MARK = "TUNING_PLACE"
"""Environment variable that marks a sandbox's processes with its token."""

_FACTS = "place.json"
_KILL_SECONDS = 5.0
_DAYS = 31


class _SandboxApp(BrokerApp):
    """A copy of the app with a different prefix and state folder."""

    def __init__(self, app: BrokerApp, prefix: str, folder: Path) -> None:
        super().__init__(app.main, config=app.config_file, set_as_current=False)
        self._twin_settings = app.settings.model_copy(update={"prefix": prefix, "state_dir": folder})
        self.conf.update(broker_url=app.conf.broker_url, broker_use_ssl=app.conf.broker_use_ssl)

    @cached_property
    def settings(self) -> Settings:
        """The app's settings with the sandbox's prefix and folder."""
        return self._twin_settings


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox of a tuning run.

    Attributes:
        app: The copy of the app that publishes in the sandbox.
        token: Identifies the sandbox; part of its prefix, and the value of `MARK`.
        folder: Folder for task logs and worker logs.
    """

    app: BrokerApp
    token: str
    folder: Path

    def environment(self) -> dict[str, str]:
        """Return the environment for the sandbox's workers."""
        ours = {
            f"{ENV_PREFIX}PREFIX": self.app.settings.prefix,
            f"{ENV_PREFIX}STATE_DIR": str(self.folder),
            MARK: self.token,
        }
        config = self.app.config_file
        return child_environment(ours | ({CONFIG_VARIABLE: str(config)} if config else {}))

    def end_processes(self) -> None:
        """Kill all remaining processes of the sandbox."""
        _end_processes(self.token)


@contextmanager
def private_place(app: BrokerApp, queue: str, on_leaving: Callable[[], object]) -> Iterator[Sandbox]:
    """Create a sandbox; when the block ends, remove its processes, queues, exchanges and files.

    Leftovers of killed runs are removed first.

    Args:
        app: The app whose topology is copied.
        queue: The queue to tune.
        on_leaving: Called before the clean-up, which must not be interrupted.

    Raises:
        TuningError: The folder cannot be written.
        InvalidQueueName: The queue's name with the sandbox's prefix is too long.
        BrokerError: The broker is unreachable.
    """
    parent = app.settings.state_dir / "tuning"
    token = secrets.token_hex(4)
    prefix = f"{app.settings.prefix}tune-{token}."
    check_queue_name(queue, prefix)
    with connect(app) as connection:
        _remove_leftovers(app, parent, connection)
        broker = app.connection_for_write().as_uri()
    folder = parent / token
    with _locked(folder, {"broker": broker, "prefix": prefix}):
        twin = _SandboxApp(app, prefix, folder)
        try:
            yield Sandbox(twin, token, folder)
        finally:
            on_leaving()
            _end_processes(token)
            twin.close()
            with connect(app) as connection:
                _remove_names(twin, connection)
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(app: BrokerApp, parent: Path, connection: amqp.Connection) -> None:
    """Remove sandboxes of dead runs, recognised by their free lock; keep those on other brokers."""
    for facts_file in parent.glob(f"*/{_FACTS}"):
        with facts_file.open("r+") as file:
            if not _lock(file):
                continue
            _end_processes(facts_file.parent.name)
            with suppress(ValueError, KeyError):
                facts = json.load(file)
                if facts["broker"] != app.connection_for_write().as_uri():
                    continue
                twin = _SandboxApp(app, facts["prefix"], facts_file.parent)
                _remove_names(twin, connection)
            shutil.rmtree(facts_file.parent, ignore_errors=True)


def _remove_names(twin: BrokerApp, connection: amqp.Connection) -> None:
    """Delete the sandbox's queues and exchanges, including lanes declared by tasks and names found by the API."""
    prefix = twin.settings.prefix
    wanted = wanted_topology(twin.settings)
    mailbox = twin.control.mailbox
    queues = {str(queue.name) for queue in wanted.queues} | {prefix + lane for lane in _possible_lanes()}
    exchanges = {str(exchange.name) for exchange in wanted.exchanges}
    exchanges |= {mailbox.exchange.name, mailbox.reply_exchange.name, twin.conf.event_exchange}
    with suppress(BrokerError):
        api = management_of(twin, connection)
        queues |= {name for name in api.queues(prefix) if name.startswith(prefix)}
        exchanges |= {name for name in api.exchanges(prefix) if name.startswith(prefix)}
    with pipelined_channel(
        connection, f"the queues and exchanges {prefix}*"
    ) as channel:  # deleting a missing name is no error
        for queue in queues:
            channel.queue_delete(queue)
        for exchange in exchanges:
            channel.exchange_delete(exchange)


def _possible_lanes() -> Iterator[str]:
    """Yield the lanes that tasks may have declared; of the lanes in days, only the first `_DAYS`."""
    for level, unit in enumerate(UNITS):
        most = UNITS[level - 1].milliseconds // unit.milliseconds * unit.step if level else _DAYS + 1
        yield from (Lane(level, count).name for count in range(unit.step, most, unit.step))


def _end_processes(token: str) -> None:
    left = kill_all(lambda: marked(MARK, token), _KILL_SECONDS)
    for process in left:
        process.send(signal.SIGKILL)


@contextmanager
def _locked(folder: Path, facts: dict[str, str]) -> Iterator[None]:
    """Create the folder, record broker and prefix, and hold its lock, which is released if this process dies."""
    try:
        make_private_folder(folder)
        file = os.fdopen(open_private(folder / _FACTS, os.O_RDWR | os.O_CREAT | os.O_TRUNC), "w+")
    except OSError as error:
        raise TuningError(unusable(folder, error)) from error
    with file:
        _lock(file)
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
