"""`broker-app queues peek | replay | move | discard | purge`: the messages of one queue."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Column

from broker_app import messages
from broker_app.cli import exit_codes
from broker_app.cli.command import pass_app
from broker_app.cli.output import echo
from broker_app.cli.progress import InterruptWatch, bar
from broker_app.cli.table import Table, console
from broker_app.errors import SelectionError
from broker_app.messages import CommandOptions, MessageFilter
from broker_app.queues import parse_duration
from broker_app.text import shown_age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker_app.app import BrokerApp
    from broker_app.messages import MessageSource, MessageSummary, TransferOutcome

_PEEK = 20
_Function = TypeVar("_Function", bound="Callable[..., Any]")

_CHOICES = (
    click.option(
        "--task", "tasks", multiple=True, metavar="PATTERN", help="Only tasks with this name, e.g. 'shop.*'."
    ),
    click.option("--id", "ids", multiple=True, metavar="ID", help="Only the task with this id."),
    click.option(
        "--reason", "reasons", multiple=True, metavar="PATTERN", help="Only dead letters with this reason."
    ),
    click.option("--older-than", metavar="TIME", help="Only messages at least this old, e.g. 10m, 2h, 3d."),
    click.option("--newer-than", metavar="TIME", help="Only messages newer than this."),
)
_FILTERS = (
    *_CHOICES,
    click.option("--limit", metavar="N", help="Only the first N messages."),
    click.option(
        "--dry-run", "is_dry_run", is_flag=True, help="Print the number of messages, and change nothing."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts."),
)


def _filtered(function: _Function, options: Sequence[Callable[..., Any]] = _FILTERS) -> _Function:
    """Add the filter options to a command, passed to it as one `MessageFilter`."""

    def wrapper(*args: Any, **given: Any) -> Any:
        return function(*args, selection=_selection(given), **given)

    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]  # click's
    for option in reversed(options):
        option(wrapper)
    return wrapper  # type: ignore[return-value]  # click's decorators keep the signature but not the type


_TASK_FAILURE = re.compile(r"^broker_app\.errors\.\w+: task .* \[.*?\] from queue \S+: ")
"""The start of a `broker_app.errors.TaskFailure`, in a dead letter."""


@click.command()
@click.argument("queue")
@partial(_filtered, options=_CHOICES)
@click.option("--limit", default=str(_PEEK), show_default=True, metavar="N", help="Only the first N messages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with tracebacks, for scripts.")
@pass_app
def peek(app: BrokerApp, queue: str, *, selection: MessageFilter, as_json: bool) -> None:
    """Show the first messages of a queue without removing them.

    Each message is fetched and returned: workers do not get it in the meantime, and it is marked "redelivered"
    from then on. With a filter, messages are read until enough match.
    """
    limit, selection = selection.limit or _PEEK, dataclasses.replace(selection, limit=None)
    peeked = messages.peek(app, queue, limit, selection)
    if peeked.is_counted:
        echo(
            "broker-app: this RabbitMQ version counts each peek at a work queue as a delivery of its messages",
            err=True,
        )
    if as_json:
        echo(json.dumps([dataclasses.asdict(message) for message in peeked.letters]))
        return
    table = Table("age", *(Column(name, overflow="fold") for name in ("task", "id", "arguments", "why")))
    table.columns[2].no_wrap = True
    for message in peeked.letters:
        age = "?" if message.age_seconds is None else shown_age(message.age_seconds)
        table.add_row(age, message.task, message.id, _call(message), _why(message))
    console().print(table)


@click.command()
@click.argument("queue")
@click.option("--to", metavar="QUEUE", help="Send them to this queue instead.")
@click.option("--skip-succeeded", is_flag=True, help="Skip messages whose result is SUCCESS.")
@_filtered
@pass_app
def replay(app: BrokerApp, queue: str, to: str | None, *, skip_succeeded: bool, **given: Any) -> None:
    """Send dead letters back to their queue as new tasks.

    Nothing is lost if the command is killed: at worst a task is in both queues, with the same id.
    """
    _run(
        "replayed",
        queue,
        given,
        lambda order: messages.replay(app, queue, order, to=to, skip_succeeded=skip_succeeded),
    )


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@_filtered
@pass_app
def move(app: BrokerApp, source: str, target: str, **given: Any) -> None:
    """Move messages to another queue unchanged."""
    _run("moved", source, given, lambda order: messages.move(app, source, target, order))


@click.command()
@click.argument("queue")
@_filtered
@pass_app
def discard(app: BrokerApp, queue: str, **given: Any) -> None:
    """Permanently remove the messages that match the filters."""
    if given["selection"].is_everything:
        raise SelectionError("discard: expected a filter, got none; `broker-app queues purge` removes all")
    _run("discarded", queue, given, lambda order: messages.discard(app, queue, order))


@click.command()
@click.argument("queue")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@pass_app
def purge(app: BrokerApp, queue: str, *, yes: bool, as_json: bool) -> None:
    """Permanently remove all messages of a queue, except unacknowledged ones."""
    if not yes and not sys.stdin.isatty():
        raise SelectionError("purge: expected --yes without a terminal; nothing was removed")

    def confirm(source: MessageSource, count: int) -> bool:
        all_of_them = "the only message" if count == 1 else f"all {count:,} messages"
        return yes or click.confirm(f"Permanently remove {all_of_them} of {source.queue}?", err=True)

    removed = messages.purge(app, queue, confirm)
    if removed is None:
        echo("broker-app: nothing was removed", err=True)
        sys.exit(exit_codes.FAILED)
    echo(json.dumps({"queue": queue, "removed": removed}) if as_json else f"{removed:,} removed")


def _run(done: str, queue: str, given: dict[str, Any], verb: Callable[[CommandOptions], TransferOutcome]) -> None:
    """Run a command with a progress bar, print the outcome, and exit with its code."""
    selection, is_dry_run = given["selection"], given["is_dry_run"]
    with InterruptWatch() as stop, bar(queue) as shown:
        order = CommandOptions(selection, is_dry_run=is_dry_run, told=shown.show, is_stopped=lambda: stop.is_asked)
        outcome = verb(order)
    not_found = sorted(selection.ids - outcome.found) if selection.limit is None and not stop.is_asked else []
    if given["as_json"]:
        counts = {
            "queue": queue,
            "is_dry_run": is_dry_run,
            "read": outcome.read,
            "selected": outcome.selected,
            done: outcome.done,
            "skipped_succeeded": outcome.succeeded,
            "refused": outcome.refused,
            "unroutable": outcome.unroutable,
            "reason": outcome.reason,
            "not_found": not_found,
            "by_task": dict(outcome.by_task),
            "is_interrupted": stop.is_asked,
        }
        echo(json.dumps(counts))
    else:
        echo(_sentence(done, outcome, not_found, is_dry_run=is_dry_run))
    if stop.is_asked:
        sys.exit(exit_codes.INTERRUPTED)
    if outcome.failed or not_found:
        sys.exit(exit_codes.FAILED)


def _sentence(done: str, outcome: TransferOutcome, not_found: list[str], *, is_dry_run: bool) -> str:
    tasks = ", ".join(f"{task or 'no task'} {count:,}" for task, count in outcome.by_task.most_common(5))
    words = (
        f"{outcome.selected:,} of {outcome.read:,} would be {done}" if is_dry_run else f"{outcome.done:,} {done}"
    )
    parts = [f"{words} ({tasks})" if tasks else words]
    if outcome.succeeded:
        parts.append(f"{outcome.succeeded:,} skipped because their result is SUCCESS")
    if outcome.failed:
        parts.append(f"{outcome.failed:,} left: {outcome.reason}")
    if not_found:
        parts.append(f"not found: {', '.join(not_found)}")
    return ", ".join(parts)


def _selection(given: dict[str, Any]) -> MessageFilter:
    """Remove the filter options from ``given`` and return them as a filter."""
    older, newer, limit = given.pop("older_than"), given.pop("newer_than"), given.pop("limit")
    return MessageFilter(
        tasks=given.pop("tasks"),
        ids=frozenset(given.pop("ids")),
        reasons=given.pop("reasons"),
        older_than_seconds=None if older is None else _time("--older-than", older),
        newer_than_seconds=None if newer is None else _time("--newer-than", newer),
        limit=None if limit is None else _positive("--limit", limit),
    )


def _time(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise SelectionError(f"{option}: {error}") from None


def _positive(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SelectionError(f"{option}: expected a whole number from 1 on, got {text!r}")
    return int(text)


def _why(message: MessageSummary) -> str:
    """Return the reason and the last error, without the task and the id, which have columns of their own."""
    cause = _TASK_FAILURE.sub("", message.exception)
    return f"{message.reason}: {cause}" if cause else message.reason


def _call(message: MessageSummary) -> str:
    return " ".join(part for part in (message.args, message.kwargs) if part and part != "{}")
