"""What the demo needs around it: a broker, the topology, the site and the fleets; all of it ended again."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broker_app.app import BrokerApp
from broker_app.broker import delay_lanes
from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, delete_exchange, delete_queue, exclusive_queue, queue_state
from broker_app.demo import running, site_process
from broker_app.demo.running import PREFIX, RunningDemo
from broker_app.errors import BrokerAppError, BrokerLocked, NodesFailed
from broker_app.fleet import start_fleets, stop_fleets
from broker_app.fleet.processes import find_workers
from broker_app.fleet.state import FleetState
from broker_app.local_broker import attach_broker, end_leftovers, find_broker
from broker_app.queues import Names, work_topology
from broker_app.queues.delay import parse_lane
from broker_app.settings.private_files import make_private_folder, open_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.fleet import StartedNode
    from broker_app.local_broker import FoundBroker
    from broker_app.settings import Settings

    Say = Callable[[str], None]

APP_NAME = "broker_app"
QUEUES = ("default", "lopri")
DECLARE_SECONDS = 10.0
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class DemoError(BrokerAppError):
    """The demo cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the demo plays on.

    Attributes:
        app: The app with the demo's settings.
        site_url: The slow web site.
        nodes: The workers.
    """

    app: BrokerApp
    site_url: str
    nodes: tuple[StartedNode, ...]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the demo's lock on its folder.

    Raises:
        DemoError: Another demo runs there, or the folder cannot be written.
    """
    try:
        make_private_folder(folder)
        lock = os.fdopen(open_private(folder / "lock", os.O_RDWR | os.O_CREAT), "w")
    except OSError as error:
        reason = f"expected a folder that can be written, got: {error.strerror}"
        raise DemoError(f"{folder}: {reason}; set BROKER_APP_STATE_DIR") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(
                f"{folder}: another demo is at work there; wait for its end, or set another BROKER_APP_STATE_DIR"
            ) from error
        yield


def check_settings(settings: Settings) -> None:
    """Refuse settings that the demo cannot play with, before anything is started.

    Raises:
        DemoError: A queue of the demo is missing, or has no workers.
    """
    for name in QUEUES:
        queue = settings.queues.get(name)
        if queue is None or not queue.fleet.nodes:
            found = "no such queue" if queue is None else f"queues.{name}.fleet.nodes = 0"
            raise DemoError(f"settings: the demo needs the queue {name!r} and workers of it, got: {found}")


@contextmanager
def stage(
    folder: Path, url: str | None, port: int | None, say: Say, on_leaving: Callable[[], bool], *, keep: bool
) -> Iterator[Environment]:
    """Bring up everything; what came up is ended with the block, also if something failed, unless it is kept.

    Args:
        folder: The demo's own; holds logs, results and the private broker.
        url: A broker to use; None to find or start one.
        port: The site's; None for the usual one, or any other if that is taken.
        say: Told of each step.
        on_leaving: Called before things are ended; returns whether a signal has asked for the end.
        keep: Leave everything running behind the block.

    Raises:
        BrokerAppError: Something could not be had; the text says what.
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
            say("interrupted: ending everything")
            raise
        finally:
            is_interrupted = on_leaving()
        if keep and not is_interrupted:
            replace(facts, is_kept=True).write(folder)
            broker.keep()
            ending.pop_all()
        else:
            say(f"ending the fleets, the site and {'the broker' if url is None else 'the queues'}")


def end_kept(folder: Path, say: Say) -> None:
    """End what a demo with ``--keep`` left running.

    Raises:
        DemoError: Nothing was kept there.
        BrokerError: The broker was given, and its queues could not be deleted; all else is ended.
    """
    facts = running.read_running(folder)
    if facts is None:
        raise DemoError(f"{folder}: expected a demo that was kept, there is none")
    ours = facts.environment(folder)
    left = [name for name in ours if os.environ.get(name) == ours[name]]
    _end(folder, facts, say)
    say(f"the fleets, the site and {'the broker' if facts.is_broker_ours else 'the queues'} are ended")
    if left:
        say(f"this shell still has the demo's settings; forget them with: unset {' '.join(left)}")


def _clear(folder: Path, say: Say) -> None:
    """End what a demo left that was killed, or that was kept until the machine went down.

    Raises:
        DemoError: A demo was kept there, and runs.
    """
    facts = running.read_running(folder)
    if facts is None:
        return
    if facts.is_kept and _is_alive(folder, facts):
        raise DemoError(f"{folder}: a demo was kept there; use it, or end it with `broker-app demo --stop`")
    say("ending what an earlier demo has left")
    _end(folder, facts, say)


def _is_alive(folder: Path, facts: RunningDemo) -> bool:
    if find_workers(FleetState(folder, APP_NAME).run) or site_process.is_alive(facts.site_url, facts.site_key):
        return True
    return facts.is_broker_ours and attach_broker(folder) is not None


def _end(folder: Path, facts: RunningDemo, say: Say) -> None:
    """End all that is written down; what is gone already is fine."""
    app = _app(folder, facts)
    with ExitStack() as ending:  # the last one first, each whatever became of the others
        ending.callback(running.forget, folder)
        if facts.is_broker_ours:
            ending.callback(_end_broker, folder, say)
        else:
            ending.callback(_delete_all, app)
        ending.callback(site_process.stop, facts.site_url, facts.site_key)
        ending.callback(_stop_fleets, app)


def _end_broker(folder: Path, say: Say) -> None:
    broker = attach_broker(folder)
    if broker is not None:
        broker.close()
    end_leftovers(folder, say)  # of a demo that was killed, and so could not keep it


def _facts(broker: FoundBroker, site_url: str, *, is_broker_ours: bool) -> RunningDemo:
    return RunningDemo(
        broker_url=broker.url,
        management_url=broker.management_url,
        is_broker_ours=is_broker_ours,
        site_url=site_url,
        site_key=secrets.token_urlsafe(16),
    )


def _begin(folder: Path, facts: RunningDemo, ending: ExitStack) -> BrokerApp:
    """Write down what will run, claim the broker if others may use it, and declare the queues."""
    app = _app(folder, facts)
    if not facts.is_broker_ours:
        ending.enter_context(_claim(app))
        ending.callback(_delete_all, app)
    ending.callback(running.forget, folder)
    facts.write(folder)
    _declare(app)
    return app


def _app(folder: Path, facts: RunningDemo) -> BrokerApp:
    """Return the default app with the demo's settings, which the workers find in the environment too."""
    os.environ.update(facts.environment(folder))
    app = BrokerApp(APP_NAME, include=["broker_app.tasks"])
    app.loader.import_default_modules()
    return app


@contextmanager
def _claim(app: BrokerApp) -> Iterator[None]:
    """Keep other demos off this broker: they would have the same queues.

    Raises:
        DemoError: One is at work there, or was kept.
    """
    with connect(app) as connection, ExitStack() as held:
        where = app.connection_for_write().as_uri()
        try:
            held.enter_context(exclusive_queue(connection, f"{PREFIX}lock"))
        except BrokerLocked as error:
            raise DemoError(
                f"{where}: another demo is at work on this broker; wait for its end, or use another broker"
            ) from error
        for spec in app.settings.specs():
            state = queue_state(connection, spec.broker_name)
            if state is not None and state.consumers:
                raise DemoError(
                    f"{where}: queue {spec.broker_name!r} has {state.consumers} workers of another demo; "
                    f"end that one with `broker-app demo --stop` where it was started, or use another broker"
                )
        yield


def _declare(app: BrokerApp) -> None:
    settings = app.settings
    common = [parse_lane(word) for word in settings.common_lanes]
    with connect(app) as connection:
        declare_topology(connection, work_topology(settings.specs(), settings.prefix))
        delay_lanes.declare(connection, common, settings.prefix, time.monotonic() + DECLARE_SECONDS)


def _delete_all(app: BrokerApp) -> None:
    """Remove what the demo and its workers declared; all of it carries the demo's prefix."""
    settings, mailbox = app.settings, app.control.mailbox
    names = Names(settings.prefix)
    wanted = work_topology(settings.specs(), settings.prefix)
    exchanges = [
        *(exchange.name for exchange in wanted.exchanges),
        *(app.conf.event_exchange, mailbox.exchange.name, mailbox.reply_exchange.name),
    ]
    with connect(app) as connection:
        for queue in [
            *(queue.name for queue in wanted.queues),
            *(names.lane(lane) for lane in delay_lanes.every()),
        ]:
            delete_queue(connection, queue)
        for exchange in exchanges:
            delete_exchange(connection, exchange)


def _start_fleets(app: BrokerApp, say: Say) -> tuple[StartedNode, ...]:
    say("starting a fleet for each queue")
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
