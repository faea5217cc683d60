"""Bulk sending: publishes the calls of a JSON lines file as it is read, and counts the confirmed ones."""

from __future__ import annotations

import select
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from celery.canvas import Signature
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from broker_app.cli import exit_codes
from broker_app.cli.calls import CallRequest, check_call, read_calls
from broker_app.cli.output import echo
from broker_app.cli.task_modules import load_tasks
from broker_app.errors import BrokerUnreachable, CallError, PublishError, PublishTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker_app.app import BrokerApp
    from broker_app.publishing.bulk import ItemOutcome

STDIN = "-"


@dataclass(slots=True)
class Summary:
    """The outcome of sending a file.

    Attributes:
        source: The file's name, for messages.
        accepted: Calls that the broker confirmed, by queue.
        not_accepted: Calls that the broker refused or did not confirm.
        maybe_twice: Calls that were resent after a lost connection.
        bad_lines: Lines without a valid call; not sent.
        seconds: Duration.
        stopped_at: The line, from 1, whose error stopped it, or the first unconfirmed one at Ctrl-C.
        read_to: The last line read.
        is_interrupted: Whether Ctrl-C stopped it.
    """

    source: str
    accepted: Counter[str] = field(default_factory=Counter)
    not_accepted: int = 0
    maybe_twice: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    stopped_at: int | None = None
    read_to: int = 0
    is_interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 5 if the broker did not accept a call, 2 if there were only bad lines, else 0."""
        if self.is_interrupted:
            return exit_codes.INTERRUPTED
        if self.not_accepted:
            return exit_codes.NOT_PUBLISHED
        return exit_codes.USAGE if self.bad_lines else exit_codes.OK

    def as_record(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "accepted": self.accepted.total(),
            "queues": dict(self.accepted),
            "not_accepted": self.not_accepted,
            "maybe_twice": self.maybe_twice,
            "bad_lines": self.bad_lines,
            "seconds": round(self.seconds, 3),
            "stopped_at": self.stopped_at,
            "read_to": self.read_to,
            "interrupted": self.is_interrupted,
        }

    def as_text(self) -> str:
        """Return the summary as one or two lines of text."""
        queues = ", ".join(f"{queue} {count}" for queue, count in self.accepted.items())
        lines = [f"accepted {self.accepted.total()} in {self.seconds:.2f} s{': ' if queues else ''}{queues}"]
        faults = [f"not accepted by the broker {self.not_accepted}"] if self.not_accepted else []
        faults += [f"possibly duplicated {self.maybe_twice}"] if self.maybe_twice else []
        faults += [f"bad lines {self.bad_lines}"] if self.bad_lines else []
        faults += [self._end()] if self.is_interrupted or self.stopped_at else []
        return "\n".join([*lines, *([", ".join(faults)] if faults else [])])

    def _end(self) -> str:
        where = f" at {self.source}:{self.stopped_at}" if self.stopped_at else ""
        rest = "the rest"
        if self.stopped_at and self.read_to > self.stopped_at:
            rest = f"what follows line {self.read_to}"
        if not self.is_interrupted:
            return f"stopped{where}, {rest} was not sent"
        unknown = ", calls from there on may have been published" if where else ""
        return f"interrupted{where}{unknown}, {rest} was not sent"


def send_file(app: BrokerApp, source: str, *, keep_going: bool, allow_unregistered: bool) -> Summary:
    """Send the calls of a file as it is read; errors are printed on stderr with their line.

    Args:
        app: The app.
        source: The file's name, or `STDIN`.
        keep_going: Whether to continue after a bad line or a refused call. A lost broker always stops it.
        allow_unregistered: Whether to accept tasks that only the workers know.

    Raises:
        CallError: The file is unreadable.
    """
    summary, started = Summary("stdin" if source == STDIN else source), time.monotonic()
    sender = _Sender(app, summary, keep_going=keep_going, allow_unregistered=allow_unregistered)
    try:
        with _open(source) as stream, _progress(source, stream, summary) as show:
            sender.send(stream, show)
    except KeyboardInterrupt:
        summary.is_interrupted, summary.stopped_at = True, next((line for line, _ in sender.under_way), None)
    summary.seconds = time.monotonic() - started
    return summary


class _Sender:
    """Publishes the calls of a stream, and counts and reports their outcomes in line order.

    Attributes:
        under_way: Lines read but not yet reported, each with its error if it is not a valid call.
    """

    def __init__(self, app: BrokerApp, summary: Summary, *, keep_going: bool, allow_unregistered: bool) -> None:
        self.under_way: deque[tuple[int, CallError | None]] = deque()
        self._app = app
        self._tasks = load_tasks(app)
        self._summary = summary
        self._keep_going = keep_going
        self._allow_unregistered = allow_unregistered

    def send(self, stream: BinaryIO, show: Callable[[], None]) -> None:
        """Publish all calls, or as many as possible."""
        try:
            for outcome in self._app.publish_many(self._signatures(stream), keep_going=self._keep_going):
                self._report_bad_lines()
                line, _ = self.under_way.popleft()
                self._note(line, outcome)
                show()
        except PublishError:
            pass  # already reported with the first call that failed
        self._report_bad_lines()

    def _signatures(self, stream: BinaryIO) -> Iterator[Signature | None]:
        """Yield the calls as signatures, and None while the next line is not available yet."""
        try:
            for line, call in _read(stream):
                self._summary.read_to = line
                try:
                    signature = self._signature(call)
                    self.under_way.append((line, None))
                    yield signature
                except CallError as fault:
                    self.under_way.append((line, fault))
                    if not self._keep_going:
                        return
                if not _has_more(stream):
                    yield None
        except KeyboardInterrupt:  # calls already sent are still confirmed
            self._summary.is_interrupted = True

    def _signature(self, call: CallRequest | CallError) -> Signature:
        if isinstance(call, CallError):
            raise call
        check_call(call, self._tasks, allow_unregistered=self._allow_unregistered)
        task = self._tasks.get(call.task)
        if task is None:
            return Signature(call.task, call.args, call.kwargs, call.options(), app=self._app)
        signature: Signature = task.signature(call.args, call.kwargs, **call.options())
        return signature

    def _note(self, line: int, outcome: ItemOutcome) -> None:
        if outcome.maybe_twice:
            self._summary.maybe_twice += 1
            self._report(line, f"task {outcome.task} [{outcome.task_id}]: resent, it may be duplicated")
        error = outcome.error
        if error is None:
            self._summary.accepted[outcome.queue] += 1
        elif isinstance(error, PublishError):
            self._summary.not_accepted += 1
            self._stop(line, error, is_final=isinstance(error, (BrokerUnreachable, PublishTimeout)))
        else:
            self._refuse(line, error)

    def _report_bad_lines(self) -> None:
        """Report the bad lines before the first unconfirmed call."""
        while self.under_way and (fault := self.under_way[0][1]) is not None:
            self._refuse(self.under_way.popleft()[0], fault)

    def _refuse(self, line: int, error: Exception) -> None:
        self._summary.bad_lines += 1
        self._stop(line, error, is_final=False)

    def _stop(self, line: int, error: Exception, *, is_final: bool) -> None:
        self._report(line, str(error))
        if is_final or not self._keep_going:
            self._summary.stopped_at = min(self._summary.stopped_at or line, line)

    def _report(self, line: int, text: str) -> None:
        echo(f"broker-app: {self._summary.source}:{line}: {text}", err=True)


def _has_more(stream: BinaryIO) -> bool:
    """Return whether a read would not block: always for a file, for a pipe if data is available."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except (OSError, ValueError):  # it has no file descriptor
        return True


@contextmanager
def _open(source: str) -> Iterator[BinaryIO]:
    if source == STDIN:
        if sys.stdin is None:  # closed by the parent process
            raise CallError(f"--from {source}: expected an open stdin, got a closed one")
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 - closed below; only errors of opening are caught here
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CallError(
            f"--from {source}: expected a readable file of JSON lines, got: {_reason(error)}"
        ) from error
    with stream:
        yield stream


def _read(stream: BinaryIO) -> Iterator[tuple[int, CallRequest | CallError]]:
    """Yield the calls; a read error is yielded as the last line."""
    line = 0
    try:
        for line, call in read_calls(stream):
            yield line, call
    except OSError as error:
        yield line + 1, CallError(f"expected a readable file, got: {_reason(error)}")


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def _progress(source: str, stream: BinaryIO, summary: Summary) -> Iterator[Callable[[], None]]:
    """Show a progress bar by bytes read on a terminal, nothing elsewhere."""
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
