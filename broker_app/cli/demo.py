"""`broker-app demo`: the main job on this machine, from nothing."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from broker_app import topology
from broker_app.cli import exit_codes
from broker_app.cli.command import Command
from broker_app.demo import display
from broker_app.demo.play import MOST_SECONDS, play
from broker_app.demo.stage import QUEUES, DemoError, end_kept, environment_file, only_one, stage
from broker_app.demo.tally import Tally
from broker_app.settings import broker_url_from_environment, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from broker_app.app import BrokerApp


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  broker-app demo\n  broker-app demo --keep\n  broker-app demo --stop",
)
@click.option("--keep", is_flag=True, help="Leave the broker, the fleets and the site running to try things out.")
@click.option("--stop", "is_stop", is_flag=True, help="End what --keep left running.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), metavar="PORT", help="Of the demo's web site.  [default: 8731]"
)
def demo(port: int | None, *, keep: bool, is_stop: bool) -> None:
    """Run a flood of downloads on lopri and a person's calls on default, side by side, and show both.

    A broker is taken from BROKER_APP_BROKER_URL, or started in Docker, or from the installed rabbitmq-server.
    Everything carries the prefix "demo." and is ended and removed afterwards.
    """
    folder = load_settings().state_dir / "demo"
    say = _clock()
    with _interruptible(say), only_one(folder):
        if is_stop:
            end_kept(folder, say)
        else:
            _run(folder, port, say, keep=keep)


def _run(folder: Path, port: int | None, say: Callable[[str], None], *, keep: bool) -> None:
    console = Console(stderr=True)
    with stage(folder, broker_url_from_environment(), port, say, keep=keep) as (app, facts):
        with Tally(app, QUEUES) as tally:
            say("sending 2,000 downloads to lopri, and a person's calls to default meanwhile")
            play(app, tally, facts.site_url, console, say)
        say("done")
        Console().print(display.table(tally, "in the end"))
        dead = tally.queues["lopri"].failed
        click.echo(
            f"{dead} downloads failed on purpose (404) and stand in lopri.dead; nothing else failed or was lost"
        )
    if keep:
        click.echo(f"still running; try it out:\n  source {environment_file(folder)}")
        click.echo("  broker-app send broker_app.tasks.add 2 2 --queue lopri --wait\n  broker-app demo --stop")


def _verdict(app: BrokerApp, tally: Tally) -> str:
    """Return what became of what failed, as the broker tells it.

    Raises:
        DemoError: Tasks had not ended when the time was up, or dead letters do not add up to what failed.
    """
    if tally.left:
        raise DemoError(
            f"demo: expected every task to end in {MOST_SECONDS:.0f} s, {tally.left} had not; is the machine busy?"
        )
    failed = {name: queue.failed for name, queue in tally.queues.items()}
    with topology.connect(app) as connection:
        dead = {
            spec.name: topology.depth(connection, spec.dead_name)
            for spec in app.settings.specs()
            if spec.name in failed
        }
    if dead != failed:
        raise DemoError(
            f"demo: expected as many dead letters as failed tasks ({failed}), got {dead}; please report this"
        )
    return f"{dead['lopri']} downloads were answered with 404 and stand in lopri.dead; nothing was lost"


def _clock() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.1f}s] {text}", err=True)

    return say


@contextmanager
def _interruptible(say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the demo in order; further ones do not disturb the clean-up."""

    def interrupt(*_signal: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        say("interrupted: ending everything")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
