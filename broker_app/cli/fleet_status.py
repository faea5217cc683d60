"""`broker-app fleet status` and `logs`: the state and the logs of the nodes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from broker_app.cli import exit_codes
from broker_app.cli.command import Number, WholeNumber, pass_app_or_remains
from broker_app.cli.output import echo
from broker_app.cli.table import Table
from broker_app.fleet import DEFAULT_ANSWER_SECONDS, FleetStatus, fleet_status
from broker_app.fleet.broken_app import RemainsApp
from broker_app.fleet.logs import LogReader
from broker_app.text import shown_age, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.app import BrokerApp
    from broker_app.fleet import NodeStatus

_DEFAULT_LINES = 20
_MAX_LINES = 1_000_000
_FOLLOW_SECONDS = 0.3
_BYTES_PER_MIB = 1024 * 1024


@click.command(
    epilog="\b\nExamples:\n  broker-app fleet status\n  broker-app fleet status lopri --json\n"
    "  broker-app fleet status --watch"
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "--timeout",
    "answer_seconds",
    type=Number(min=0, max=86_400),
    default=DEFAULT_ANSWER_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time for a silent node to reply.",
)
@click.option(
    "--json", "is_json", is_flag=True, help="Print JSON, for scripts; with --watch one line per refresh."
)
@click.option("--watch", "is_watch", is_flag=True, help="Refresh in place until Ctrl-C.")
@click.option("--every", "seconds", type=Number(min=0.1), default=2.0, show_default=True, metavar="SECONDS")
@click.option(
    "--count", "rounds", type=WholeNumber(min=1), metavar="N", help="With --watch: stop after N refreshes."
)
@pass_app_or_remains
def status(  # noqa: PLR0913 - click passes each option
    app: BrokerApp,
    queues: tuple[str, ...],
    answer_seconds: float,
    seconds: float,
    rounds: int | None,
    *,
    is_json: bool,
    is_watch: bool,
) -> None:
    """Show the state of the nodes.

    Exit code 0 if all wanted nodes run and consume their queues, 3 if the settings are invalid, 4 if the broker
    is unreachable, else 1. The columns "consumes" and "heard" come from a file that each node writes once a
    second, so a hung node is visible.
    """
    if rounds is not None and not is_watch:
        raise click.UsageError("--count requires --watch")
    found = fleet_status(app, queues, answer_seconds=answer_seconds)
    if is_watch and not is_json:
        found = _watch(app, queues, answer_seconds, seconds, rounds)
    else:
        _print(found, is_json=is_json)
        for _ in _rounds(rounds, seconds) if is_watch else ():
            found = fleet_status(app, queues, answer_seconds=answer_seconds)
            _print(found, is_json=is_json)
    if isinstance(app, RemainsApp):
        sys.exit(exit_codes.SETTINGS)
    if found.broker_problem:
        sys.exit(exit_codes.BROKER)
    sys.exit(exit_codes.OK if found.is_complete else exit_codes.FAILED)


@click.command(epilog="\b\nExamples:\n  broker-app fleet logs lopri -n 100\n  broker-app fleet logs lopri -f")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(0, _MAX_LINES),
    default=_DEFAULT_LINES,
    show_default=True,
    help="Number of lines of each log.",
)
@click.option("-f", "--follow", "is_followed", is_flag=True, help="Follow new lines until Ctrl-C.")
@pass_app_or_remains
def logs(app: BrokerApp, queues: tuple[str, ...], lines: int, *, is_followed: bool) -> None:
    """Show the last lines of the nodes' logs, including those of prefork children.

    With more than one log, each line starts with the log's name. --follow survives log rotation.
    """
    reader = LogReader.of(app, queues)
    for line in reader.tail(lines):
        echo(line)
    while is_followed:
        for line in reader.news():
            echo(line)
        time.sleep(_FOLLOW_SECONDS)


def _watch(
    app: BrokerApp, queues: tuple[str, ...], answer_seconds: float, seconds: float, rounds: int | None
) -> FleetStatus:
    found = fleet_status(app, queues, answer_seconds=answer_seconds)
    with Live(console=Console(), auto_refresh=False) as live:
        live.update(_shown(found), refresh=True)
        for _ in _rounds(rounds, seconds):
            found = fleet_status(app, queues, answer_seconds=answer_seconds)
            live.update(_shown(found), refresh=True)
    return found


def _rounds(rounds: int | None, seconds: float) -> Iterator[int]:
    """Yield once per further refresh, after the interval."""
    done = 1
    while rounds is None or done < rounds:
        time.sleep(seconds)
        yield done
        done += 1


def _print(found: FleetStatus, *, is_json: bool) -> None:
    rows = [_row(node) for node in found.nodes]
    if is_json:
        scaled = {queue: {"from": before, "to": now} for queue, (before, now) in found.scaled.items()}
        whole = {"is_complete": found.is_complete, "broker_problem": found.broker_problem, "scaled": scaled}
        echo(json.dumps(whole | {"stopped": list(found.resting), "nodes": rows}))
    else:
        _print_table(rows)
        for line in _notes(found):
            echo(line)
    if found.broker_problem:
        echo(f"broker-app: failed to query the workers: {found.broker_problem}", err=True)


def _row(status: NodeStatus) -> dict[str, Any]:
    """Return a node's JSON object, which the table shows too."""
    answer = status.answer
    return {
        "queue": status.node.queue,
        "node": status.node.name,
        "pid": status.pid,
        "state": str(status.state),
        "is_wanted": status.is_wanted,
        "is_answering": answer is not None,
        "is_consuming": status.is_consuming,
        "is_paused": status.is_paused,
        "heard_seconds": _rounded(status.heard_seconds),
        "pool": status.pool,
        "slots": status.slots,
        "active": answer.active if answer else None,
        "done": status.done,
        "memory_bytes": status.memory_bytes,
        "uptime_seconds": _rounded(status.uptime_seconds),
        "version": status.version,
        "note": status.note,
        "log": str(status.log),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


_COLUMNS = (
    "queue",
    "node",
    "pid",
    "state",
    "consumes",
    "heard",
    "pool",
    "busy",
    "done",
    "memory",
    "up",
    "version",
)
"""The log folder is printed below the table, as paths are too long for a column."""


def _cells(row: dict[str, Any]) -> list[str]:
    busy = None if row["slots"] is None else f"{_cell(row['active'])}/{row['slots']}"
    memory = None if row["memory_bytes"] is None else f"{row['memory_bytes'] / _BYTES_PER_MIB:,.0f} MiB"
    state = row["state"] if row["is_wanted"] else f"{row['state']}, not wanted"
    heard = None if row["heard_seconds"] is None else f"{row['heard_seconds']:.0f} s ago"
    consumes = "paused" if row["is_paused"] else row["is_consuming"]
    up = None if row["uptime_seconds"] is None else shown_age(row["uptime_seconds"])
    cells = (
        *(row["queue"], row["node"], row["pid"], state, consumes, heard, row["pool"], busy),
        *(row["done"], memory, up, row["version"]),
    )
    return [_cell(cell) for cell in cells]


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print a table on a terminal and plain columns elsewhere, then the log folder."""
    cells = [_cells(row) for row in rows]
    if sys.stdout.isatty():
        Console().print(_table(cells))
    else:
        _print_columns(cells)
    for folder in sorted({str(Path(row["log"]).parent) for row in rows}):
        echo(f"logs: {folder}")


def _table(cells: list[list[str]]) -> Table:
    table = Table(*_COLUMNS)
    for line in cells:
        table.add_row(*line)
    return table


def _print_columns(cells: list[list[str]]) -> None:
    lines = [list(_COLUMNS), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _shown(found: FleetStatus) -> Group:
    problem = f"failed to query the workers: {found.broker_problem}" if found.broker_problem else ""
    texts = [*_notes(found), problem, time.strftime("%H:%M:%S")]
    table = _table([_cells(_row(node)) for node in found.nodes])
    return Group(table, *(Text(visible(text, "\n")) for text in texts if text))


def _notes(found: FleetStatus) -> list[str]:
    return [
        *(f"{queue}: scaled from {before} to {now}" for queue, (before, now) in found.scaled.items()),
        *(f"{queue}: stopped by an operator" for queue in found.resting),
        *(f"{node.node.name}: {node.note}" for node in found.nodes if node.note),
    ]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
