"""`broker-app send`: call a task, or all calls in a file of JSON lines."""

from __future__ import annotations

import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from celery import states
from celery.backends.base import DisabledBackend
from celery.exceptions import TimeoutError as ResultTimeoutError

from broker_app.cli import exit_codes
from broker_app.cli.arguments import parse_argument, parse_keyword, parse_keywords
from broker_app.cli.calls import CallRequest, check_call, parse_call
from broker_app.cli.command import Command, Number, WholeNumber, pass_app
from broker_app.cli.output import echo
from broker_app.cli.send_file import send_file
from broker_app.cli.task_modules import load_tasks
from broker_app.errors import BrokerAppError, CallError
from broker_app.wire.errors import cause_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from celery.result import AsyncResult

    from broker_app.app import BrokerApp

_RECORD_OPTIONS = ("queue", "countdown", "eta", "priority", "expires", "id")
_ONE_CALL_OPTIONS = ("kwargs", "keywords", *_RECORD_OPTIONS, "timeout")
_POLL_SECONDS = 0.1
"""Polling interval for result stores without notifications."""

_NEGATIVE_NUMBER = re.compile(r"-[0-9.]")


class _SendCommand(Command):
    """Explains how to pass a negative number, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if _NEGATIVE_NUMBER.match(error.option_name):
                raise click.UsageError(
                    "a negative number looks like an option: write -- before the arguments, after all options, "
                    "e.g. broker-app send broker_app.tasks.add --wait -- -1 2",
                    ctx,
                ) from error
            raise


@click.command(
    cls=_SendCommand,
    epilog="\b\nExamples:\n"
    "  broker-app send broker_app.tasks.add 2 2 --wait\n"
    "  broker-app send broker_app.tasks.fetch http://127.0.0.1:8000/ --queue lopri --countdown 10\n"
    "  broker-app send broker_app.tasks.xsum '[1, 2, 3]'\n"
    "  broker-app send broker_app.tasks.add --wait -- -1 2\n"
    "  broker-app send broker_app.tasks.add -k x=1 -k y=2 --wait --timeout 5 --json\n"
    "  broker-app send --from calls.jsonl --keep-going\n"
    "\b\nA line of calls.jsonl:\n"
    '  {"task": "broker_app.tasks.add", "args": [2, 2], "queue": "lopri", "countdown": 10}',
)
@click.argument("task", required=False)
@click.argument("args", nargs=-1)
@click.option("--kwargs", metavar="JSON", help="Keyword arguments, as a JSON object.")
@click.option("-k", "keywords", metavar="NAME=VALUE", multiple=True, help="One keyword argument; repeatable.")
@click.option("--queue", help="A declared queue. Default: the task's own, or as in the settings.")
@click.option("--countdown", type=float, metavar="SECONDS", help="Run the task after this delay.")
@click.option(
    "--eta", metavar="MOMENT", help="Run the task at this time, ISO 8601, e.g. 2030-01-31T09:00:00+00:00."
)
@click.option(
    "--priority", type=WholeNumber(), metavar="N", help="0..9, larger is more urgent; for queues with priorities."
)
@click.option("--expires", type=float, metavar="SECONDS", help="Do not start the task after this time.")
@click.option("--id", help="The task id. Default: a new one.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option(
    "--timeout", type=Number(min=0, min_open=True), metavar="SECONDS", help="With --wait: wait at most this long."
)
@click.option("--unregistered", is_flag=True, help="Allow a task that only the workers know.")
@click.option("--from", "source", metavar="FILE", help="Send the calls in a file of JSON lines; - for stdin.")
@click.option("--keep-going", is_flag=True, help="With --from: continue after a bad line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def send(app: BrokerApp, task: str | None, args: Sequence[str], **options: Any) -> None:
    """Call TASK with ARGS and print its id, or its result with --wait.

    ARGS are JSON values (2, '[1,2]', '{"a": 1}', true); words that are not JSON, such as URLs, are strings.
    """
    try:
        code = _send_file(app, task, options) if options["source"] else _send_one(app, task, args, options)
    except KeyboardInterrupt:
        echo("broker-app: interrupted before the broker confirmed the task; it may have been published", err=True)
        code = exit_codes.INTERRUPTED
    if code:
        sys.exit(code)


def _send_file(app: BrokerApp, task: str | None, options: dict[str, Any]) -> int:
    given = ["TASK"] if task is not None else []
    given += [_flag(name) for name in _ONE_CALL_OPTIONS if options[name] not in (None, ())]
    given += ["--wait"] if options["wait"] else []
    if given:
        raise CallError(f"--from: expected the calls in the file only, got {', '.join(given)} too; leave one out")
    summary = send_file(
        app,
        options["source"],
        keep_going=options["keep_going"],
        allow_unregistered=options["unregistered"],
    )
    echo(json.dumps(summary.as_record()) if options["as_json"] else summary.as_text())
    return summary.exit_code


def _send_one(app: BrokerApp, task: str | None, args: Sequence[str], options: dict[str, Any]) -> int:
    if task is None:
        raise CallError("expected a TASK or --from FILE, got neither; see broker-app send --help")
    if options["keep_going"]:
        raise CallError("--keep-going: expected --from FILE with it")
    if options["timeout"] is not None and not options["wait"]:
        raise CallError("--timeout: expected --wait with it")
    call = _call(task, args, options)
    check_call(call, load_tasks(app), allow_unregistered=options["unregistered"])
    if options["wait"]:
        _check_keeps_result(app, call)
    result = _publish(app, call)
    if options["wait"]:
        return _wait(result, call, options["timeout"], as_json=options["as_json"])
    echo(json.dumps({"id": result.id, "task": call.task}) if options["as_json"] else result.id)
    return exit_codes.OK


def _publish(app: BrokerApp, call: CallRequest) -> AsyncResult:
    """Publish one call with confirmation; a registered task keeps its own defaults (queue, priority, …).

    Raises:
        RoutingError: Invalid queue, priority or delay; nothing was sent.
        PublishError: The broker did not accept it.
    """
    task = app.tasks.get(call.task)
    if task is None:
        return app.send_task(call.task, call.args, call.kwargs, **call.options())
    return task.apply_async(call.args, call.kwargs, **call.options())


def _call(task: str, args: Sequence[str], options: dict[str, Any]) -> CallRequest:
    record = {"task": task, "args": [], "kwargs": {}} | {name: options[name] for name in _RECORD_OPTIONS}
    for number, word in enumerate(args, 1):
        with _located(f"argument {number}"):
            record["args"].append(parse_argument(word))
    if options["kwargs"] is not None:
        with _located("--kwargs"):
            record["kwargs"] = parse_keywords(options["kwargs"])
    for word in options["keywords"]:
        with _located("-k"):
            name, value = parse_keyword(word)
            if name in record["kwargs"]:
                raise CallError(f"expected {name!r} once, got it again")
            record["kwargs"][name] = value
    return parse_call(record)


@contextmanager
def _located(location: str) -> Iterator[None]:
    """Add the location on the command line to errors."""
    try:
        yield
    except CallError as error:
        raise CallError(f"{location}: {error}") from None


def _check_keeps_result(app: BrokerApp, call: CallRequest) -> None:
    task = app.tasks.get(call.task)
    ignores = app.conf.task_ignore_result if task is None else task.ignore_result
    if ignores or isinstance(app.backend, DisabledBackend):
        raise CallError(
            f"--wait: task {call.task} keeps no result (ignore_result, or no result store); leave it out"
        )


def _wait(result: AsyncResult, call: CallRequest, timeout: float | None, *, as_json: bool) -> int:
    """Wait for the result and print it, or print on stderr why it is missing; return the exit code."""
    where = f"task {call.task} [{result.id}]"
    try:
        value = result.get(timeout=timeout, interval=_POLL_SECONDS, propagate=False)
        state = result.state
    except ResultTimeoutError:
        state = result.state
        echo(
            f"broker-app: {where}: no result after {timeout:g} s ({_progress(state)}); the task continues",
            err=True,
        )
        if as_json:
            echo(json.dumps({"id": result.id, "state": state}))
        return exit_codes.FAILED
    except KeyboardInterrupt:
        echo(f"broker-app: {where}: interrupted while waiting; the task continues", err=True)
        return exit_codes.INTERRUPTED
    except Exception as error:
        raise BrokerAppError(
            f"{where}: it was published, but the result store failed: {cause_text(error)}"
        ) from error
    if state == states.SUCCESS:
        echo(json.dumps({"id": result.id, "state": state, "result": value}) if as_json else _readable(value))
        return exit_codes.OK
    return _print_failure(result.id, where, state, value, as_json=as_json)


def _print_failure(task_id: str, where: str, state: str, error: Any, *, as_json: bool) -> int:
    echo(f"broker-app: {where}: {type(error).__name__}: {' '.join(str(error).split())}", err=True)
    if as_json:
        facts = {"type": type(error).__name__, "message": str(error)}
        echo(json.dumps({"id": task_id, "state": state, "error": facts}))
    return exit_codes.FAILED


def _progress(state: str) -> str:
    if state == states.PENDING:
        return "the result store knows nothing of it: no worker has started it, or its result was deleted"
    return f"its state is {state}"


def _readable(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text.encode(errors="backslashreplace").decode()


def _flag(name: str) -> str:
    return "-k" if name == "keywords" else f"--{name}"
