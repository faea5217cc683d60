"""What the demo needs around it: a broker, the topology, the site and the fleets; all of it ended again."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.request import urlopen

from broker_app import lanes, topology
from broker_app.app import BrokerApp
from broker_app.demo import site
from broker_app.embedded import attach_broker, find_broker
from broker_app.errors import BrokerAppError
from broker_app.fleet import start_fleets, stop_fleets
from queues import Names, work_topology
from queues.delay import parse_lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PREFIX = "demo."
"""Of everything on the broker, so that the demo touches nothing else, also on a broker that others use."""

QUEUES = ("default", "lopri")
SITE_LATENCY_SECONDS = 0.05
SITE_PORT = 8731
SITE_START_SECONDS = 10.0
DECLARE_SECONDS = 10.0
STOP_SECONDS = 20.0
_KEPT = "kept.json"
_ENVIRONMENT = "env.sh"


class DemoError(BrokerAppError):
    """The demo cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs around the demo.

    Attributes:
        broker_url: With its password.
        is_broker_ours: Whether the demo started the broker.
        site_url: The slow web site.
    """

    broker_url: str
    is_broker_ours: bool
    site_url: str


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the demo's lock on its folder.

    Raises:
        DemoError: Another demo runs there, or the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        reason = f"expected a folder that can be written, got: {error.strerror}"
        raise DemoError(f"{folder}: {reason}; set BROKER_APP_STATE_DIR") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(
                f"{folder}: another demo is running there; wait for it, or set another state_dir"
            ) from error
        yield


@contextmanager
def stage(
    folder: Path, url: str | None, port: int | None, say: Callable[[str], None], *, keep: bool
) -> Iterator[tuple[BrokerApp, Stage]]:
    """Bring up everything; what came up is ended with the block, also if something failed, unless it is kept.

    Args:
        folder: The demo's own; holds logs, results and the private broker.
        url: A broker to use; None to find or start one.
        port: The site's; None for the usual one, or any other if that is taken.
        say: Told of each step.
        keep: Leave everything running behind the block.

    Raises:
        BrokerAppError: Something could not be had; the text says what.
    """
    if (folder / _KEPT).exists():
        raise DemoError(f"{folder}: a demo was kept there; use it, or end it with `broker-app demo --stop`")
    with ExitStack() as ending:
        found = ending.enter_context(find_broker(folder, url=url, announce=say))
        say(f"broker: {found.how}")
        app = demo_app(folder, found.url)
        _declare(app)
        ending.callback(_delete_queues, app)
        say("topology: " + ", ".join(spec.broker_name for spec in app.settings.specs()))
        site_url = _start_site(folder, port)
        ending.callback(_stop_site, site_url)
        say(f"site: {site_url}, answers after {SITE_LATENCY_SECONDS * 1000:.0f} ms")
        ending.callback(_stop_fleets, app)
        started = start_fleets(app, QUEUES, app_name="broker_app")
        for node in started:
            say(f"fleet: {node.node.name}, {node.slots} slots, started by celery multi")
        facts = Stage(found.url, url is None, site_url)
        yield app, facts
        if keep:
            found.keep()
            ending.pop_all()
            _remember(folder, facts)
        else:
            say("ending the fleets, the site and the broker")


def end_kept(folder: Path, say: Callable[[str], None]) -> None:
    """End what a demo with ``--keep`` left running.

    Raises:
        DemoError: Nothing was kept there.
    """
    try:
        facts = Stage(**json.loads((folder / _KEPT).read_text()))
    except FileNotFoundError as error:
        raise DemoError(f"{folder}: expected a demo that was kept, there is none") from error
    app = demo_app(folder, facts.broker_url)
    _stop_fleets(app)
    _stop_site(facts.site_url)
    broker = attach_broker(folder) if facts.is_broker_ours else None
    if broker is not None:
        broker.close()
    elif not facts.is_broker_ours:
        _delete_queues(app)
    for name in (_KEPT, _ENVIRONMENT):
        (folder / name).unlink(missing_ok=True)
    say("the fleets, the site and the broker are ended")


def demo_app(folder: Path, broker_url: str) -> BrokerApp:
    """Return the default app with the demo's settings, which the workers find in the environment too."""
    os.environ.update(_environment(folder, broker_url))
    app = BrokerApp("broker_app", include=["broker_app.tasks"])
    missing = [queue for queue in QUEUES if queue not in app.settings.queues]
    if missing:
        raise DemoError(f"settings: expected the queues {', '.join(QUEUES)}, {missing[0]} is not declared")
    app.loader.import_default_modules()
    return app


def environment_file(folder: Path) -> Path:
    """Return the file that a kept demo can be tried out with: ``source …/env.sh``."""
    return folder / _ENVIRONMENT


def _environment(folder: Path, broker_url: str) -> dict[str, str]:
    return {
        "BROKER_APP_BROKER_URL": broker_url,
        "BROKER_APP_STATE_DIR": str(folder),
        "BROKER_APP_PREFIX": PREFIX,
    }


def _remember(folder: Path, facts: Stage) -> None:
    exports = [f"export {name}='{value}'" for name, value in _environment(folder, facts.broker_url).items()]
    contents = {_KEPT: json.dumps(asdict(facts)), _ENVIRONMENT: "\n".join(exports) + "\n"}
    for name, content in contents.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds a password
        with os.fdopen(descriptor, "w") as file:
            file.write(content)


def _declare(app: BrokerApp) -> None:
    settings = app.settings
    common = [parse_lane(word) for word in settings.common_lanes]
    with topology.connect(app) as connection:
        topology.declare(connection, work_topology(settings.specs(), settings.prefix))
        lanes.declare(connection, common, settings.prefix, time.monotonic() + DECLARE_SECONDS)


def _delete_queues(app: BrokerApp) -> None:
    """Remove what the demo declared; all of it carries the demo's prefix."""
    settings = app.settings
    names = Names(settings.prefix)
    wanted = work_topology(settings.specs(), settings.prefix)
    with topology.connect(app) as connection:
        for queue in [*(queue.name for queue in wanted.queues), *(names.lane(lane) for lane in lanes.every())]:
            topology.delete_queue(connection, queue)
        for exchange in wanted.exchanges:
            topology.delete_exchange(connection, exchange.name)


def _stop_fleets(app: BrokerApp) -> None:
    stop_fleets(app, wait_seconds=STOP_SECONDS, is_kill_allowed=True)


def _start_site(folder: Path, port: int | None) -> str:
    chosen = _free_port(port)
    arguments = [sys.executable, "-m", site.__name__, str(chosen), str(SITE_LATENCY_SECONDS)]
    with (folder / "site.log").open("wb") as log:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + SITE_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", chosen)) == 0:
                return f"http://127.0.0.1:{chosen}"
        time.sleep(0.05)
    process.kill()
    raise DemoError(
        f"site: expected an answer on port {chosen} in {SITE_START_SECONDS:.0f} s; see {folder}/site.log"
    )


def _stop_site(url: str) -> None:
    try:
        with urlopen(url + site.STOP, timeout=5):  # noqa: S310 - our own http:// URL
            return
    except OSError:
        return  # it is not there any more


def _free_port(wanted: int | None) -> int:
    for port in (wanted,) if wanted else (SITE_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoError(f"--port {wanted}: expected a free port, it is taken; choose another, or leave the option out")
