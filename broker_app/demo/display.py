"""How the demo looks: a live table on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker_app.demo.statistics import QueueStatistics, Statistics

LINE_INTERVAL_SECONDS = 2.0


class StepPrinter:
    """Says on stderr what happens, with the seconds since it was made; to be called with a text.

    Attributes:
        console: What it writes to; a live table there makes room for the lines.
    """

    def __init__(self) -> None:
        self.console = _LastingConsole(stderr=True)
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Say it; that the terminal or pipe is gone is no reason to leave things running."""
        with suppress(OSError):
            self.console.print(
                f"[{time.monotonic() - self._started:5.1f}s] {text}", markup=False, highlight=False, soft_wrap=True
            )


def table(tally: Statistics, title: str) -> Table:
    """Return the figures so far, one row a queue."""
    result = Table(title=title, title_justify="left")
    result.add_column("queue")
    for heading in ("sent", "done", "failed", "waiting", "waited p50", "waited p95"):
        result.add_column(heading, justify="right")
    for name, queue in tally.queues.items():
        result.add_row(
            name,
            *(f"{number:,}" for number in (queue.sent, queue.done, queue.failed, queue.left)),
            *(_milliseconds(queue.percentile(percent)) for percent in (50, 95)),
        )
    return result


@contextmanager
def live(tally: Statistics, console: Console) -> Iterator[Callable[[], None]]:
    """Show the figures while they grow; yields what is to be called now and then."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=5, transient=True) as screen:
            yield lambda: screen.update(table(tally, "at work"))
        return
    last = time.monotonic()

    def say() -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL_SECONDS:
            last = time.monotonic()
            console.print("  ".join(_line(name, queue) for name, queue in tally.queues.items()), soft_wrap=True)

    yield say


def _line(name: str, queue: QueueStatistics) -> str:
    figures = f"sent {queue.sent}, done {queue.done}, failed {queue.failed}"
    return f"{name}: {figures}, waited p50 {_milliseconds(queue.percentile(50))}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


class _LastingConsole(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence, where rich's own would end the program with what it has started still running."""
        self.quiet = True
