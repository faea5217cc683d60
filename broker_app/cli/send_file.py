"""Sends the calls of a file of JSON lines, one after the other, and counts what the broker confirmed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from celery.signals import after_task_publish
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from broker_app.calls import Call, check_call, read_calls
from broker_app.cli import exit_codes
from broker_app.errors import (
    BrokerAppError,
    BrokerUnreachable,
    CallError,
    PublishError,
    RoutingError,
    UnknownQueue,
)
from queues import Names
from queues.delay import parse_routing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from celery import Task
    from celery.result import AsyncResult
    from kombu.messaging import Producer

    from broker_app.app import BrokerApp

STDIN = "-"


@dataclass(slots=True)
class Summary:
    """What became of a file.

    Attributes:
        source: The file's name, for messages.
        accepted: Calls that the broker confirmed, by queue.
        not_accepted: Calls that the broker did not take, or whose confirmation did not come.
        bad_lines: Lines that are no call: nothing of them was sent.
        seconds: How long it took.
        stopped_at: The line, from 1, at whose fault it stopped, or whose call was under way at Ctrl-C.
        is_interrupted: Whether Ctrl-C stopped it.
    """

    source: str
    accepted: Counter[str] = field(default_factory=Counter)
    not_accepted: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    stopped_at: int | None = None
    is_interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 5 if the broker did not take a call, 2 if only lines were bad, else 0."""
        if self.is_interrupted:
            return exit_codes.INTERRUPTED
        if self.not_accepted:
            return exit_codes.NOT_PUBLISHED
        return exit_codes.USAGE if self.bad_lines else exit_codes.OK

    def as_record(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "accepted": self.accepted.total(),
            "queues": dict(self.accepted),
            "not_accepted": self.not_accepted,
            "bad_lines": self.bad_lines,
            "seconds": round(self.seconds, 3),
            "stopped_at": self.stopped_at,
            "interrupted": self.is_interrupted,
        }

    def as_text(self) -> str:
        """Return it for a person, one or two lines."""
        queues = ", ".join(f"{queue} {count}" for queue, count in self.accepted.items())
        lines = [f"accepted {self.accepted.total()} in {self.seconds:.2f} s{': ' if queues else ''}{queues}"]
        faults = [f"not accepted by the broker {self.not_accepted}"] if self.not_accepted else []
        faults += [f"bad lines {self.bad_lines}"] if self.bad_lines else []
        faults += [self._end()] if self.is_interrupted or self.stopped_at else []
        return "\n".join([*lines, *([", ".join(faults)] if faults else [])])

    def _end(self) -> str:
        where = f" at {self.source}:{self.stopped_at}" if self.stopped_at else ""
        if not self.is_interrupted:
            return f"stopped{where}, the rest was not sent"
        return f"interrupted{where}{', whose call may have been taken' if where else ''}, the rest was not sent"


def send_file(app: BrokerApp, source: str, *, keep_going: bool, allow_unregistered: bool) -> Summary:
    """Send the calls of a file while it is read; faults are told on stderr, each with its line.

    Args:
        app: The app.
        source: The file's name, or `STDIN`.
        keep_going: Whether to go on after a bad line or a refused call. Without a broker it always stops.
        allow_unregistered: Whether tasks may be called that only the workers know.

    Raises:
        CallError: The file cannot be read.
    """
    summary, started = Summary("stdin" if source == STDIN else source), time.monotonic()
    sender = _Sender(app, summary, allow_unregistered=allow_unregistered)
    try:
        with _open(source) as stream, _counting(app, summary.accepted), _progress(source, stream, summary) as show:
            for line, call in _read(stream):
                error = sender.send(line, call)
                if error and (not keep_going or isinstance(error, BrokerUnreachable)):
                    summary.stopped_at = line
                    break
                show()
    except KeyboardInterrupt:
        summary.is_interrupted, summary.stopped_at = True, sender.under_way
    finally:
        sender.close()
    summary.seconds = time.monotonic() - started
    return summary


def load_tasks(app: BrokerApp) -> Mapping[str, Task]:
    """Import the modules that the app includes, and return its tasks by name.

    Raises:
        CallError: A module is not there.
    """
    try:
        app.loader.import_default_modules()
    except ImportError as error:
        raise CallError(f"the app's tasks: expected modules that can be imported, got: {error}") from error
    tasks: Mapping[str, Task] = app.tasks
    return tasks


def publish(app: BrokerApp, call: Call, producer: Producer | None = None) -> AsyncResult:
    """Publish one call, confirmed; a registered task keeps its own defaults (queue, priority, …).

    Raises:
        RoutingError: Its queue, priority or delay cannot be; nothing was sent.
        PublishError: The broker did not take it.
    """
    task = app.tasks.get(call.task)
    if task is None:
        return app.send_task(call.task, call.args, call.kwargs, producer=producer, **call.options())
    return task.apply_async(call.args, call.kwargs, producer=producer, **call.options())


class _Sender:
    """Publishes calls through one producer of the app's pool: the seam for publishing many at once."""

    def __init__(self, app: BrokerApp, summary: Summary, *, allow_unregistered: bool) -> None:
        self.under_way: int | None = None
        self._app = app
        self._tasks = load_tasks(app)
        self._summary = summary
        self._allow_unregistered = allow_unregistered
        self._producer = app.producer_pool.acquire(block=True)

    def send(self, line: int, call: Call | CallError) -> BrokerAppError | None:
        """Publish a line's call; return what was wrong with it, which is counted and told."""
        self.under_way = line
        error = self._fault(call)
        self.under_way = None
        if error is not None:
            click.echo(f"broker-app: {self._summary.source}:{line}: {error}", err=True)
        return error

    def close(self) -> None:
        """Give the producer back."""
        self._producer.release()

    def _fault(self, call: Call | CallError) -> BrokerAppError | None:
        try:
            if isinstance(call, CallError):
                raise call
            check_call(call, self._tasks, allow_unregistered=self._allow_unregistered)
            publish(self._app, call, self._producer)
        except (CallError, RoutingError) as error:
            self._summary.bad_lines += 1
            return error
        except PublishError as error:
            self._summary.not_accepted += 1
            return error
        return None


@contextmanager
def _open(source: str) -> Iterator[BinaryIO]:
    if source == STDIN:
        if sys.stdin is None:  # closed by who started this process
            raise CallError(f"--from {source}: expected an open stdin, got a closed one")
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below; errors of its use are not errors of opening
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CallError(
            f"--from {source}: expected a readable file of JSON lines, got: {_reason(error)}"
        ) from error
    with stream:
        yield stream


def _read(stream: BinaryIO) -> Iterator[tuple[int, Call | CallError]]:
    """Yield the calls; a file that cannot be read further ends with that as its last fault."""
    line = 0
    try:
        for line, call in read_calls(stream):
            yield line, call
    except OSError as error:
        yield line + 1, CallError(f"expected to read on, got: {_reason(error)}")


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def _counting(app: BrokerApp, accepted: Counter[str]) -> Iterator[None]:
    """Count by queue what the publisher has confirmed: it alone knows which queue a task went to."""
    names, table = Names(app.settings.prefix), app.settings.routing_table()

    def count(exchange: str, routing_key: str, **_: Any) -> None:
        key = parse_routing_key(routing_key)[1] if exchange == names.delay else routing_key
        try:
            accepted[table.queue(key).name] += 1
        except UnknownQueue:
            accepted[f"{exchange}/{routing_key}"] += 1  # a task that goes to an exchange of the user's

    after_task_publish.connect(count, weak=False)
    try:
        yield
    finally:
        after_task_publish.disconnect(count)


@contextmanager
def _progress(source: str, stream: BinaryIO, summary: Summary) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, by the bytes that were read; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    file = Path(source)
    total = file.stat().st_size if source != STDIN and file.is_file() else None
    columns = (TextColumn("sending"), BarColumn(), TextColumn("{task.fields[sent]} accepted"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=total, sent=0)

        def show() -> None:
            position = stream.tell() if total is not None else 0
            progress.update(bar, completed=position, sent=summary.accepted.total())

        yield show
