"""`broker-app check`: check the settings and the task modules, and with --broker that the broker supports them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from itertools import chain
from typing import TYPE_CHECKING

import click
from rich.console import Console

from broker_app.broker.checks import judge_broker, judge_settings
from broker_app.broker.findings import Finding, Level
from broker_app.cli import exit_codes
from broker_app.cli.command import Command, pass_app
from broker_app.cli.output import echo
from broker_app.cli.table import Table
from broker_app.cli.task_modules import load_tasks
from broker_app.errors import CallError, SettingsError
from broker_app.queues import DeadLetters
from broker_app.results.check import judge_reach, judge_store, judge_workers
from broker_app.settings import ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from broker_app.app import BrokerApp
    from broker_app.settings import QueueSettings, Settings


@click.command(
    cls=Command,
    epilog="\b\nExamples:\n  broker-app check\n  broker-app check --broker\n  broker-app check --broker --json",
)
@click.option("--broker", is_flag=True, help="Check the broker too, without changing it.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON list.")
@pass_app
def check(app: BrokerApp, *, broker: bool, as_json: bool) -> None:
    """Check the settings and the task modules, and with --broker that the broker supports them.

    Exit code 0 if there are at most warnings, 3 for errors in the settings, 2 if a task module cannot be imported,
    4 for errors on the broker.
    """
    settings = _settings(app, as_json=as_json)
    if not as_json:
        _describe(app, settings)
    local = _print_findings(chain(judge_settings(settings), judge_store(app)), as_json=as_json)
    is_refused = any(finding.where.startswith("environment") for finding in local)  # its URL may be invalid
    tasks = [] if is_refused else _print_findings(_judge_tasks(app), as_json=as_json)
    remote = _remote(app, as_json=as_json) if broker and not is_refused else []
    if as_json:
        _print_json([*local, *tasks, *remote])
    if code := _exit_code(local, tasks, remote):
        sys.exit(code)


def _remote(app: BrokerApp, *, as_json: bool) -> list[Finding]:
    """Check the broker and the result store, and if the broker is reachable, the workers."""
    found = _print_findings(chain(judge_broker(app), judge_reach(app)), as_json=as_json)
    is_away = any(finding.where == "broker" for finding in found)
    return found if is_away else [*found, *_print_findings(judge_workers(app), as_json=as_json)]


def _settings(app: BrokerApp, *, as_json: bool) -> Settings:
    """Read the settings; errors go to stderr, and as JSON to stdout too."""
    try:
        return app.settings
    except SettingsError as error:
        if as_json:
            _print_json([Finding(Level.ERROR, *_split(problem)) for problem in error.problems])
        raise


def _split(problem: str) -> tuple[str, str]:
    where, _, text = problem.partition(": ")
    return where, text


def _describe(app: BrokerApp, settings: Settings) -> None:
    """Print the source of the settings, and the queues; only names of variables, as values may be secret."""
    echo(f"settings file: {app.config_file or 'none, built-in defaults'}")
    if variables := sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX)):
        echo(f"environment: {', '.join(variables)}")
    table = Table(box=None, pad_edge=False, header_style="")
    for heading in (
        "queue",
        "type",
        "priorities",
        "prefetch",
        "deliveries",
        "longest run",
        "dead letters",
        "fleet",
    ):
        table.add_column(heading, no_wrap=True)
    for name, queue in settings.queues.items():
        table.add_row(*_row(name, queue))
    console = Console(width=_width(settings), highlight=False, markup=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    echo("\n".join(["", *lines, ""]))


def _row(name: str, queue: QueueSettings) -> tuple[str, ...]:
    fleet = queue.fleet
    return (
        name,
        queue.type,
        "0..9" if queue.priorities else "none",
        str(queue.prefetch),
        str(queue.delivery_limit),
        f"{queue.longest_run_seconds:g} s",
        f"{name}.dead" if queue.dead_letters is DeadLetters.KEEP else "discarded",
        f"{fleet.nodes} x {fleet.pool} -c {fleet.concurrency}",
    )


def _width(settings: Settings) -> int:
    """Return a width that truncates no cell: a pipe has no width, and a narrow terminal wraps the lines."""
    return 120 + 2 * max(map(len, settings.queues))


def _print_findings(findings: Iterable[Finding], *, as_json: bool) -> list[Finding]:
    """Print each finding as it arrives, and return all."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            echo(str(finding))
    return found


def _print_json(findings: list[Finding]) -> None:
    echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))


def _judge_tasks(app: BrokerApp) -> Iterator[Finding]:
    """Yield an error if a task module cannot be imported."""
    try:
        load_tasks(app)
    except CallError as error:
        where, text = _split(str(error))
        yield Finding(Level.ERROR, where, text)


def _exit_code(local: list[Finding], tasks: list[Finding], remote: list[Finding]) -> int:
    codes = ((local, exit_codes.SETTINGS), (tasks, exit_codes.USAGE), (remote, exit_codes.BROKER))
    faulty = (code for found, code in codes if any(finding.level is Level.ERROR for finding in found))
    return next(faulty, exit_codes.OK)
