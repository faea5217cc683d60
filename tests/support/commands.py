"""Commands that tests run to their end: one that hangs says where it stands before it is killed."""

from __future__ import annotations

import signal
import subprocess

_LAST_WORDS_SECONDS = 10


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
