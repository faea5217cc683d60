"""The end of processes and threads that a test has started: awaited for a bounded time, then brought about.

The time limit of a test interrupts the thread that runs it. It ends no process, and no thread that keeps the run
from exiting.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

END_SECONDS = 90.0
"""How long a process or a thread that has been told to end may take, on a busy machine too."""

_LAST_WORDS_SECONDS = 10

Text = TypeVar("Text", str, bytes)


class Process(subprocess.Popen[Text]):
    """A process that does not outlive its block: it is killed if the block fails, or if it ends too late."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its pipes and wait for its end."""
        if kind is not None:
            self.kill()
        killing = threading.Timer(END_SECONDS, self.kill)
        killing.daemon = True
        killing.start()
        try:
            super().__exit__(kind, error, trace)
        finally:
            killing.cancel()


def ended(process: subprocess.Popen[Text]) -> int:
    """Wait for the end of a process, and return its exit code; one that does not end in time is killed."""
    try:
        return process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(END_SECONDS)


@contextmanager
def ending(process: subprocess.Popen[Text]) -> Iterator[subprocess.Popen[Text]]:
    """Tell a process to end after the block, and see to it that it does."""
    with process:  # closes its pipes
        try:
            yield process
        finally:
            process.terminate()
            ended(process)


def outputs(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Wait for a command and return what it printed to stdout and stderr.

    Args:
        process: It has pipes, and PYTHONFAULTHANDLER in its environment, as `watchdog` sets it for all.
        seconds: How long it may take.

    Raises:
        AssertionError: It took longer. The message has the stacks of its threads.
    """
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{process.args!r} still ran after {seconds:g} s:\n{_last_words(process)}") from None


def _last_words(process: subprocess.Popen[str]) -> str:
    if process.poll() is not None:
        return "it has ended, but another process holds its pipes"
    process.send_signal(signal.SIGABRT)
    try:
        return process.communicate(timeout=_LAST_WORDS_SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return "it did not say"


def joined(thread: threading.Thread) -> None:
    """Wait for the end of a thread.

    Raises:
        AssertionError: It goes on.
    """
    thread.join(END_SECONDS)
    assert not thread.is_alive(), f"the thread {thread.name} did not end within {END_SECONDS:g} s"
