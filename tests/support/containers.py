"""Docker's own command line, as the tests use it."""

from __future__ import annotations

import os
import secrets
import subprocess
from contextlib import suppress

from broker_app.local_broker.process import kill_all, marked

_COMMAND_SECONDS = 90
_KILL_SECONDS = 5.0
_RUN = "TEST_RUN"
"""Variable with the id of this run, the same in all its processes; also the label of its containers."""


def name_run() -> None:
    """Give this run an id, before it starts any process."""
    os.environ[_RUN] = secrets.token_hex(16)


def remove_left() -> None:
    """Remove the containers and processes that this run started and did not end, as after Ctrl-C."""
    kill_all(lambda: marked(_RUN, os.environ[_RUN]), _KILL_SECONDS)
    with suppress(FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        left = docker("ps", "--all", "--quiet", "--filter", f"label={_RUN}={os.environ[_RUN]}").split()
        if left:
            docker("rm", "--force", "--volumes", *left)


def docker(*words: str) -> str:
    """Run a command of Docker to its end, and return what it printed."""
    if words[0] == "run":
        words = (words[0], "--label", f"{_RUN}={os.environ[_RUN]}", *words[1:])
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
