"""Demo output: a live table on a terminal, a line every few seconds elsewhere."""

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
    """Prints progress messages on stderr, with the elapsed seconds. Call it with a text.

    Attributes:
        console: The console it writes to; lines are printed above a live table on it.
    """

    def __init__(self) -> None:
        self.console = _LastingConsole(stderr=True)
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print the text; ignore a closed terminal or pipe, so that the clean-up still runs."""
        with suppress(OSError):
            self.console.print(
                f"[{time.monotonic() - self._started:5.1f}s] {text}", markup=False, highlight=False, soft_wrap=True
            )


def table(statistics: Statistics, title: str) -> Table:
    """Return the current statistics, one row per queue."""
    result = Table(title=title, title_justify="left")
    result.add_column("queue")
    for heading in ("sent", "done", "failed", "waiting", "waited p50", "waited p95"):
        result.add_column(heading, justify="right")
    for name, queue in statistics.queues.items():
        result.add_row(
            name,
            *(f"{number:,}" for number in (queue.sent, queue.done, queue.failed, queue.left)),
            *(_milliseconds(queue.percentile(percent)) for percent in (50, 95)),
        )
    return result


@contextmanager
def live(statistics: Statistics, console: Console) -> Iterator[Callable[[], None]]:
    """Show live statistics; yields a function that refreshes them."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=5, transient=True) as screen:
            yield lambda: screen.update(table(statistics, "at work"))
        return
    last = time.monotonic()

    def print_line() -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_INTERVAL_SECONDS:
            last = time.monotonic()
            console.print(
                "  ".join(_line(name, queue) for name, queue in statistics.queues.items()), soft_wrap=True
            )

    yield print_line


def _line(name: str, queue: QueueStatistics) -> str:
    figures = f"sent {queue.sent}, done {queue.done}, failed {queue.failed}"
    return f"{name}: {figures}, waited p50 {_milliseconds(queue.percentile(50))}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


class _LastingConsole(Console):
    def on_broken_pipe(self) -> None:
        """Continue silently; rich would exit and leave the started processes running."""
        self.quiet = True
