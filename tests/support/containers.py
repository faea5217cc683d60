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


def container_at(port: int, column: str = "{{.ID}}") -> str:
    """Return the id, or another column, of the container that publishes a port.

    The result is empty without a container, also without Docker or with an engine that does not respond.
    """
    try:
        return docker("ps", "--filter", f"publish={port}", "--format", column)
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return ""
