"""`broker-app fleet plan`, `supervise` and `systemd`: alternative ways to run the nodes."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker_app.cli.command import app_name, pass_app
from broker_app.cli.logs import log_to_stderr
from broker_app.fleet.plan import exports, inherited_variables, plan_fleets, preparation
from broker_app.fleet.supervisor import RESUMED_OPTION, Supervisor
from broker_app.fleet.systemd import units, write_units

if TYPE_CHECKING:
    from broker_app.app import BrokerApp
    from broker_app.fleet import FleetPlan


@click.command(
    epilog="\b\nExamples:\n  broker-app fleet plan\n  broker-app fleet plan lopri --json\n"
    '  eval "$(broker-app fleet plan lopri --variables)"'
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "--variables",
    "is_variables",
    is_flag=True,
    help="Show the queues' environment variables with their values instead.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def plan(app: BrokerApp, queues: tuple[str, ...], *, is_variables: bool, is_json: bool) -> None:
    """Show the `celery multi` command of each queue, to paste into a shell.

    The commands contain no secrets: set the listed variables in the shell. Nothing is started.
    """
    if is_variables:
        click.echo("\n".join(exports(app, queues)))
        return
    plans = plan_fleets(app, queues, app_name=app_name(click.get_current_context()))
    if is_json:
        found = [{"queue": p.queue, "nodes": p.nodes, "command": p.line, "variables": p.variables} for p in plans]
        shell = {"preparation": preparation(), "environment": inherited_variables()}
        click.echo(json.dumps(shell | {"fleets": found}))
        return
    if inherited := inherited_variables():
        click.echo(f"# required variables, set in this shell: {', '.join(inherited)}")
    for one in plans:
        click.echo(f"# {one.queue}: {', '.join(one.nodes)}")
        click.echo(_pasted(one))


@click.command(epilog="\b\nExamples:\n  broker-app fleet supervise\n  broker-app -A shop fleet supervise lopri")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(RESUMED_OPTION, "is_resumed", is_flag=True, hidden=True)
@pass_app
def supervise(app: BrokerApp, queues: tuple[str, ...], *, is_resumed: bool) -> None:
    """Start the nodes, and restart those that die or hang, until SIGTERM or Ctrl-C.

    For a terminal, a container or systemd. A dead node is restarted after 1 s, then after 2, 4, 8 … 60 s; one
    minute of uptime resets the delay. SIGHUP acts like `fleet reload`. On shutdown the nodes finish their tasks;
    exit code 1 if one had to be killed.
    """
    log_to_stderr("%(asctime)s %(levelname)s %(message)s")
    name = app_name(click.get_current_context())
    sys.exit(Supervisor(app, queues, app_name=name, is_resumed=is_resumed).run())


@click.command(
    epilog="\b\nExamples:\n  broker-app fleet systemd\n"
    "  broker-app -A shop fleet systemd --output /etc/systemd/system --secrets /etc/shop/secrets.env"
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Write the files into this folder."
)
@click.option(
    "--secrets",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The EnvironmentFile with BROKER_APP_BROKER_URL.  [default: /etc/<app>/secrets.env]",
)
@click.option("--user", "is_for_user", is_flag=True, help="For `systemctl --user`.")
@pass_app
def systemd(app: BrokerApp, output: Path | None, secrets: Path | None, *, is_for_user: bool) -> None:
    """Generate systemd units: a service for each queue, and a target for all.

    The services run `fleet supervise` in the current folder, as this user, with this interpreter.
    """
    name = app_name(click.get_current_context())
    file = secrets or Path("/etc") / name.partition(":")[0] / "secrets.env"
    made = units(app, app_name=name, secrets=file, is_for_user=is_for_user)
    if output is None:
        click.echo("\n".join(f"# ---- {unit.name}\n{unit.text}" for unit in made), nl=False)
        return
    for path in write_units(made, output):
        click.echo(str(path))
    target = made[-1].name
    scope = " --user" if is_for_user else ""
    click.echo(f"then: systemctl{scope} daemon-reload && systemctl{scope} enable --now {target}", err=True)


def _pasted(one: FleetPlan) -> str:
    """Return the command line in a subshell, which leaves the caller's folder and variables unchanged."""
    given = app_name(click.get_current_context())
    words = [
        str(Path(sys.executable).with_name("broker-app")),
        "-A",
        given,
        "fleet",
        "plan",
        one.queue,
        "--variables",
    ]
    variables = f'eval "$({shlex.join(words)})" && ' if one.variables else ""
    return f"({preparation()} && {variables}{one.line})"
