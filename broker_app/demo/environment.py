"""The demo's environment: starts and stops the broker, the topology, the site and the fleets."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker_app.app import BrokerApp
from broker_app.demo import running, site_process
from broker_app.demo.running import RunningDemo
from broker_app.demo.topology import DemoError, claim, declare, delete_all
from broker_app.errors import NodesFailed
from broker_app.fleet import start_fleets, stop_fleets
from broker_app.fleet.processes import find_workers
from broker_app.fleet.state import FleetState
from broker_app.local_broker import attach_broker, end_leftovers, find_broker
from broker_app.settings.private_files import make_private_folder, open_private, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.fleet import StartedNode
    from broker_app.local_broker import FoundBroker
    from broker_app.settings import Settings

    Say = Callable[[str], None]

APP_NAME = "broker_app"
QUEUES = ("default", "lopri")
START_SECONDS = 120.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Environment:
    """A running demo environment.

    Attributes:
        app: The app with the demo's settings.
        site_url: URL of the slow web site.
        nodes: The worker nodes.
    """

    app: BrokerApp
    site_url: str
    nodes: tuple[StartedNode, ...]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the demo's lock on its folder.

    Raises:
        DemoError: Another demo uses the folder, or the folder is not writable.
    """
    try:
        make_private_folder(folder)
        lock = os.fdopen(open_private(folder / "lock", os.O_RDWR | os.O_CREAT), "w")
    except OSError as error:
        raise DemoError(unusable(folder, error)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(
                f"{folder}: another demo is running there; wait until it ends, or set another BROKER_APP_STATE_DIR"
            ) from error
        yield


def check_settings(settings: Settings) -> None:
    """Check that the settings are suitable for the demo, before anything is started.

    Raises:
        DemoError: One of the demo's queues is missing or has no workers.
    """
    for name in QUEUES:
        queue = settings.queues.get(name)
        if queue is None or not queue.fleet.nodes:
            found = "no such queue" if queue is None else f"queues.{name}.fleet.nodes = 0"
            raise DemoError(f"settings: the demo needs the queue {name!r} with workers, got: {found}")


@contextmanager
def stage(
    folder: Path, url: str | None, port: int | None, say: Say, on_leaving: Callable[[], bool], *, keep: bool
) -> Iterator[Environment]:
    """Start everything the demo needs, and stop it when the block ends, even after an error, unless ``keep``.

    Args:
        folder: The demo's folder, for logs, results and the private broker.
        url: URL of the broker to use; None to find or start one.
        port: The site's port; None for the default, or any free one if that is taken.
        say: Called with a text for each step.
        on_leaving: Called before the clean-up; returns whether a signal was received.
        keep: Whether to leave everything running.

    Raises:
        BrokerAppError: Something failed to start; the message says what.
    """
    _clear(folder, say)
    with ExitStack() as ending:
        try:
            listener = ending.enter_context(site_process.listen(port))
            broker = ending.enter_context(find_broker(folder, url=url, announce=say))
            say(f"broker: RabbitMQ {broker.version}, {broker.how}")
            facts = _facts(broker, site_process.url_of(listener), is_broker_ours=url is None)
            app = _begin(folder, facts, ending)
            say("topology: " + ", ".join(spec.broker_name for spec in app.settings.specs()))
            ending.callback(site_process.stop, facts.site_url, facts.site_key)
            site_process.start(listener, facts.site_key, folder / "site.log")
            say(f"site: {facts.site_url}, answers after {site_process.LATENCY_SECONDS * 1000:.0f} ms")
            ending.callback(_stop_fleets, app)
            nodes = _start_fleets(app, say)
            yield Environment(app, facts.site_url, nodes)
        except KeyboardInterrupt:
            say("interrupted: stopping everything")
            raise
        finally:
            is_interrupted = on_leaving()
        if keep and not is_interrupted:
            replace(facts, is_kept=True).write(folder)
            broker.keep()
            ending.pop_all()
        else:
            say(f"stopping the fleets, the site and {'the broker' if url is None else 'the queues'}")


def end_kept(folder: Path, say: Say) -> None:
    """Stop what a demo with ``--keep`` left running.

    Raises:
        DemoError: No demo was kept in the folder.
        BrokerError: Failed to delete the queues on an external broker; everything else is stopped.
    """
    facts = running.read_running(folder)
    if facts is None:
        raise DemoError(f"{folder}: expected a kept demo, found none")
    ours = facts.environment(folder)
    left = [name for name in ours if os.environ.get(name) == ours[name]]
    _end(folder, facts, say)
    say(f"the fleets, the site and {'the broker' if facts.is_broker_ours else 'the queues'} are stopped")
    if left:
        say(f"this shell still has the demo's settings; remove them with: unset {' '.join(left)}")


def _clear(folder: Path, say: Say) -> None:
    """Clean up after a demo that was killed, or that was kept and ended by a reboot.

    Raises:
        DemoError: A kept demo is still running.
    """
    facts = running.read_running(folder)
    if facts is None:
        return
    if facts.is_kept and _is_alive(folder, facts):
        raise DemoError(
            f"{folder}: a kept demo is running there; use it, or stop it with `broker-app demo --stop`"
        )
    say("cleaning up after an earlier demo")
    _end(folder, facts, say)


def _is_alive(folder: Path, facts: RunningDemo) -> bool:
    if find_workers(FleetState(folder, APP_NAME).run) or site_process.is_alive(facts.site_url, facts.site_key):
        return True
    return facts.is_broker_ours and attach_broker(folder) is not None


def _end(folder: Path, facts: RunningDemo, say: Say) -> None:
    """Stop everything in the record; ignore what is already gone."""
    app = _app(folder, facts)
    with ExitStack() as ending:  # in reverse order, each even if others fail
        ending.callback(running.forget, folder)
        if facts.is_broker_ours:
            ending.callback(_end_broker, folder, say)
        else:
            ending.callback(delete_all, app)
        ending.callback(site_process.stop, facts.site_url, facts.site_key)
        ending.callback(_stop_fleets, app)


def _end_broker(folder: Path, say: Say) -> None:
    broker = attach_broker(folder)
    if broker is not None:
        broker.close()
    end_leftovers(folder, say)  # of a demo that was killed


def _facts(broker: FoundBroker, site_url: str, *, is_broker_ours: bool) -> RunningDemo:
    return RunningDemo(
        broker_url=broker.url,
        management_url=broker.management_url,
        is_broker_ours=is_broker_ours,
        site_url=site_url,
        site_key=secrets.token_urlsafe(16),
    )


def _begin(folder: Path, facts: RunningDemo, ending: ExitStack) -> BrokerApp:
    """Write the record, claim the broker if it is shared, and declare the queues."""
    app = _app(folder, facts)
    if not facts.is_broker_ours:
        ending.enter_context(claim(app))
        ending.callback(delete_all, app)
    ending.callback(running.forget, folder)
    facts.write(folder)
    declare(app)
    return app


def _app(folder: Path, facts: RunningDemo) -> BrokerApp:
    """Return the default app with the demo's settings, which the workers inherit through the environment."""
    os.environ.update(facts.environment(folder))
    app = BrokerApp(APP_NAME, include=["broker_app.tasks"])
    app.loader.import_default_modules()
    return app


def _start_fleets(app: BrokerApp, say: Say) -> tuple[StartedNode, ...]:
    say("starting a fleet per queue")
    try:
        nodes = start_fleets(app, QUEUES, app_name=APP_NAME, wait_seconds=START_SECONDS)
    except NodesFailed as error:
        for node in error.outcomes:
            for line in node.log_lines:
                say(f"{node.log.name}: {line}")
        raise
    for node in nodes:
        say(f"fleet: {node.node.name}, {node.slots} slots, started by celery multi")
    return nodes


def _stop_fleets(app: BrokerApp) -> None:
    stop_fleets(app, wait_seconds=STOP_SECONDS, is_kill_allowed=True)
