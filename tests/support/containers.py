"""Docker's own command line, as the tests use it."""

from __future__ import annotations

import subprocess

_COMMAND_SECONDS = 90


def docker(*words: str) -> str:
    """Run a command of Docker to its end, and return what it printed."""
    done = subprocess.run(
        ["docker", *words],  # noqa: S607 - from the PATH, as testcontainers
        capture_output=True,
        text=True,
        check=True,
        timeout=_COMMAND_SECONDS,
    )
    return done.stdout.strip()
