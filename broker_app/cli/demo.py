"""`broker-app demo`: a complete example that runs on one machine without preparation."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console

from broker_app.cli import exit_codes
from broker_app.cli.command import Command, WholeNumber
from broker_app.cli.interruption import Interruption
from broker_app.cli.output import echo
from broker_app.demo import display
from broker_app.demo.environment import QUEUES, check_settings, end_kept, only_one, stage
from broker_app.demo.play import play, verdict
from broker_app.demo.running import demo_folder, environment_file
from broker_app.demo.statistics import Statistics
from broker_app.demo.workload import read_jobs
from broker_app.settings import broker_url_from_environment, load_settings

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  broker-app demo\n  broker-app demo --jobs 200\n  broker-app demo --keep\n"
    "  broker-app demo --stop",
)
@click.option("--keep", is_flag=True, help="Leave the broker, the fleets and the site running to try things out.")
@click.option("--stop", "is_stop", is_flag=True, help="Stop what --keep left running.")
@click.option("--jobs", type=WholeNumber(min=1), metavar="N", help="Send only the first N of the 2,000 downloads.")
@click.option(
    "--port", type=WholeNumber(1, 65_535), metavar="PORT", help="Port of the demo's web site.  [default: 8731]"
)
def demo(port: int | None, jobs: int | None, *, keep: bool, is_stop: bool) -> None:
    """Run a flood of downloads on lopri next to interactive calls on default, and show both live.

    Uses the broker in BROKER_APP_BROKER_URL, or starts one in Docker or from an installed rabbitmq-server.
    Everything on it has the prefix "demo." and is removed at the end.
    """
    if is_stop and (keep or jobs or port):
        raise click.UsageError("--stop cannot be combined with other options")
    settings, say = load_settings(), display.StepPrinter()
    folder = demo_folder(settings.state_dir)
    with Interruption() as interruption:
        try:
            with only_one(folder):
                if is_stop:
                    interruption.hold()
                    end_kept(folder, say)
                else:
                    check_settings(settings)
                    _run(folder, port, jobs, say, interruption, keep=keep)
        except KeyboardInterrupt:
            interruption.hold()
    if interruption.has_come:
        sys.exit(exit_codes.INTERRUPTED)


def _run(
    folder: Path,
    port: int | None,
    most_jobs: int | None,
    say: display.StepPrinter,
    interruption: Interruption,
    *,
    keep: bool,
) -> None:
    jobs = read_jobs()[:most_jobs]
    with stage(folder, broker_url_from_environment(), port, say, interruption.hold, keep=keep) as environment:
        with Statistics(environment.app, QUEUES, [node.node.name for node in environment.nodes]) as statistics:
            say(f"sending {len(jobs):,} downloads to lopri, and interactive calls to default")
            play(environment, statistics, jobs, say)
        say("done")
        Console().print(display.table(statistics, "in the end"))
        echo(verdict(environment.app, statistics))
    if keep and not interruption.has_come:
        say("still running; try it out:")
        echo(
            f"  source {shlex.quote(str(environment_file(folder)))}\n"
            "  broker-app send broker_app.tasks.add 2 2 --queue lopri --wait\n"
            "  broker-app demo --stop",
            err=True,
        )
