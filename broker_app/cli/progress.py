"""Progress bars, and Ctrl-C that stops a command cleanly."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import click

from broker_app.cli.output import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class ProgressBar:
    """A progress bar on stderr, shown only on a terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None

    def show(self, done: int, total: int) -> None:
        """Update the bar."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self._label, file=sys.stderr, show_pos=True)
            self._bar.render_progress()
        self._bar.update(done - self._bar.pos)

    def close(self) -> None:
        """Finish the bar's line."""
        if self._bar is not None:
            self._bar.render_finish()


@contextmanager
def bar(label: str) -> Iterator[ProgressBar]:
    """Provide a progress bar during a block."""
    made = ProgressBar(label)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def stages(*, is_quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function that shows stages on stderr: as a bar on a terminal, else one line per stage."""
    from rich.console import Console  # noqa: PLC0415 - imported only when needed
    from rich.progress import Progress  # noqa: PLC0415

    seen = [""]
    with Progress(console=Console(stderr=True), disable=is_quiet or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=None)

        def show(stage: str, moved: int, total: int | None) -> None:
            if stage != seen[0] and progress.disable:
                echo(stage, err=True)
            seen[0] = stage
            progress.update(bar, description=stage, completed=moved, total=total)

        yield show


class InterruptWatch:
    """Records Ctrl-C during a block; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.is_asked = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
