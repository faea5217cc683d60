"""`broker-app queues list`: an overview of all queues, once or refreshed."""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import count
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from broker_app.cli.command import Number, WholeNumber, pass_app
from broker_app.cli.output import echo
from broker_app.cli.table import Table
from broker_app.errors import BrokerError
from broker_app.messages import read_overview
from broker_app.queues import Names
from broker_app.text import shown_age, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker_app.app import BrokerApp
    from broker_app.messages import Overview, QueueRow

_UNKNOWN = "?"
_COLUMNS = ("queue", "ready", "running", "dead", "consumers", "oldest wait", "paused")


@click.command("list")
@click.option("--watch", "is_watch", is_flag=True, help="Refresh in place until Ctrl-C.")
@click.option("--every", "seconds", type=Number(min=0.1), default=2.0, show_default=True, metavar="SECONDS")
@click.option(
    "--count", "rounds", type=WholeNumber(min=1), metavar="N", help="With --watch: stop after N refreshes."
)
@click.option("--no-look", is_flag=True, help="Omit the oldest wait, so that no message is fetched.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for scripts; with --watch one line per refresh."
)
@pass_app
def list_(
    app: BrokerApp, seconds: float, rounds: int | None, *, is_watch: bool, no_look: bool, as_json: bool
) -> None:
    """Show each queue's messages, consumers and dead letters, and the scheduled and unrouted tasks.

    Queues that are no longer in the settings but still on the broker are marked; see `broker-app queues retire`.

    "running" counts unacknowledged tasks, as last sampled by the broker (up to 5 s ago). "oldest wait" is that of
    the next task, which is fetched for a moment and returned. Scheduled tasks wait in delay lanes shared by all
    queues.
    """
    if rounds is not None and not is_watch:
        raise click.UsageError("--count requires --watch")
    overview = read_overview(app, may_look=not no_look)
    if not is_watch:
        _print_once(app, overview, as_json=as_json)
        return
    times = _rounds(app, overview, rounds, seconds, may_look=not no_look)
    if as_json:
        for one in times:
            echo(json.dumps(_as_dict(one) if not isinstance(one, BrokerError) else {"error": str(one)}))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        for one in times:
            live.update(
                Text(visible(str(one), "\n")) if isinstance(one, BrokerError) else _shown(app, one), refresh=True
            )


def _rounds(
    app: BrokerApp, first: Overview, rounds: int | None, seconds: float, *, may_look: bool
) -> Iterator[Overview | BrokerError]:
    """Yield the overview of each refresh, or the error while the broker is unreachable."""
    yield first
    for done in count(1):
        if done == rounds:
            return
        time.sleep(seconds)
        try:
            yield read_overview(app, may_look=may_look)
        except BrokerError as error:
            yield error


def _print_once(app: BrokerApp, overview: Overview, *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(_as_dict(overview)))
        return
    Console().print(_table(overview))
    echo(_summary(app, overview))
    for sentence in overview.missing:
        echo(f"not known: {sentence}", err=True)


def _shown(app: BrokerApp, overview: Overview) -> Group:
    missing = [Text(visible(f"not known: {sentence}"), style="dim") for sentence in overview.missing]
    return Group(_table(overview), Text(_summary(app, overview)), *missing, Text(time.strftime("%H:%M:%S")))


def _table(overview: Overview) -> Table:
    table = Table(*_COLUMNS)
    for name, row in overview.rows.items():
        table.add_row(f"{name} (removed)" if row.is_removed else name, *_cells(row))
    return table


def _cells(row: QueueRow) -> list[str]:
    if not row.is_declared:
        return ["not declared", "", f"{row.dead:,}" if row.dead else "", "", "", "paused" if row.is_paused else ""]
    running = _UNKNOWN if row.running is None else f"{row.running:,}"
    empty = _UNKNOWN if row.ready else ""
    wait = empty if row.oldest_wait_seconds is None else shown_age(row.oldest_wait_seconds)
    paused = _UNKNOWN if row.is_paused is None else "paused" if row.is_paused else ""
    return [f"{row.ready:,}", running, f"{row.dead:,}", f"{row.consumers:,}", wait, paused]


def _summary(app: BrokerApp, overview: Overview) -> str:
    parked = Names(app.settings.prefix).unrouted
    removed = [name for name, row in overview.rows.items() if row.is_removed]
    cure = f"; not in the settings: retire {', '.join(removed)} with `broker-app queues retire`" if removed else ""
    return f"scheduled in the delay lanes: {overview.scheduled:,}; parked in {parked}: {overview.unrouted:,}{cure}"


def _as_dict(overview: Overview) -> dict[str, Any]:
    rows = {name: dataclasses.asdict(row) for name, row in overview.rows.items()}
    shared = {"scheduled": overview.scheduled, "unrouted": overview.unrouted}
    return {"queues": rows, **shared, "not_known": list(overview.missing)}
