"""The `celery multi` command that starts a fleet, as a value, and running it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.settings import CONFIG_VARIABLE, ENV_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_app.fleet.nodes import Fleet
    from broker_app.fleet.state import FleetState
    from broker_app.settings import FleetSettings

LAUNCH_SECONDS_PER_NODE = 60.0
"""`celery multi` starts one node after the other; each loads the app once before it detaches."""

_CELERY_MULTI = "from celery.bin.multi import main; main()"
"""`celery multi` itself: by way of ``python -m celery`` all of Celery's commands and their plug-ins would be
imported first (1.9 s of processor time instead of 0.3 s, for each queue)."""

PATH_VARIABLES = (CONFIG_VARIABLE, f"{ENV_PREFIX}STATE_DIR")
"""Variables that hold a path, which workers need absolute."""

_KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """What `celery multi` did. That a node detached does not mean that it lives: only its answer does.

    Attributes:
        is_ok: Whether each node loaded the app and detached.
        lines: What it and the nodes wrote to stderr before they detached.
    """

    is_ok: bool
    lines: tuple[str, ...]


def start_command(fleet: Fleet, app_name: str, state: FleetState) -> list[str]:
    """Return the `celery multi` command that starts a fleet's nodes, as it is run.

    No broker URL stands in it, as every user of the host may read command lines; the workers find it where
    this process did: in the settings file or the environment.

    Args:
        fleet: Its nodes are those to start; at least one.
        app_name: As Celery's ``-A``.
        state: Where the pid and log files are.
    """
    return [*_nice(fleet), sys.executable, "-c", _CELERY_MULTI, *_arguments(fleet, app_name, state)]


def pasted_line(fleet: Fleet, app_name: str, state: FleetState) -> str:
    """Return the same command for a shell, as one would write it oneself.

    The shell must be in this process's current folder and have its ``BROKER_APP_…`` variables.
    """
    celery = Path(sys.executable).with_name("celery")
    program = [str(celery)] if celery.exists() else [sys.executable, "-m", "celery"]
    return shlex.join([*_nice(fleet), *program, "multi", *_arguments(fleet, app_name, state)])


def _nice(fleet: Fleet) -> list[str]:
    return ["nice", "-n", str(fleet.settings.nice)] if fleet.settings.nice else []


def _arguments(fleet: Fleet, app_name: str, state: FleetState) -> list[str]:
    return [
        "start",
        *(node.name for node in fleet.nodes),
        *("-A", shlex.quote(app_name)),
        f"--queues={fleet.queue}",
        f"--pool={fleet.pool}",
        f"--concurrency={fleet.concurrency}",
        f"--prefetch-multiplier={fleet.prefetch}",
        *_limit_options(fleet.settings),
        *_path_options(state),
        "--loglevel=INFO",
        "--without-gossip",  # workers' chatter about one another; nothing here listens to it
        "--quiet",
    ]


def child_environment(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment for the workers, its paths made absolute.

    Args:
        overrides: Variables that win, e.g. ``BROKER_APP_BROKER_URL`` of a private broker.
    """
    environment = dict(os.environ) | dict(overrides or {})
    for variable in PATH_VARIABLES:
        if environment.get(variable):
            environment[variable] = str(Path(environment[variable]).expanduser().absolute())
    if _needs_quotes(sys.executable):  # `_path_options` can then name only the file
        folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(folders)
    return environment


def launch(command: list[str], environment: Mapping[str, str], timeout_seconds: float) -> Launch:
    """Run a `celery multi` command to its end; the workers keep the current folder."""
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return Launch(is_ok=False, lines=(*_lines(error.stderr), f"not done in {timeout_seconds:g} s"))
    return Launch(is_ok=done.returncode == 0, lines=_lines(done.stderr))


def _limit_options(settings: FleetSettings) -> list[str]:
    memory_mb = settings.max_memory_per_child_mb
    values = {
        "--time-limit": settings.time_limit_seconds,
        "--soft-time-limit": settings.soft_time_limit_seconds,
        "--max-tasks-per-child": settings.max_tasks_per_child,
        "--max-memory-per-child": None if memory_mb is None else memory_mb * _KIB_PER_MIB,
    }
    return [f"{name}={value:.15g}" for name, value in values.items() if value is not None]


def _path_options(state: FleetState) -> list[str]:
    """Return where the pid and log files go; celery fills in the node and the number of a pool's process.

    `celery multi` splits the worker's command as a shell would, but makes the folders of these options as
    they stand. Paths that need quotes go through ``--append``, which it only hands on: the last one wins.
    """
    pid_file, log_file = f"{state.run}/%n.pid", f"{state.log}/%n%I.log"
    if not any(map(_needs_quotes, (pid_file, log_file, sys.executable))):
        return [f"--pidfile={pid_file}", f"--logfile={log_file}"]
    options = {"--pidfile": pid_file, "--logfile": log_file, "--executable": sys.executable}
    quoted = " ".join(f"{name}={shlex.quote(path)}" for name, path in options.items())
    plain = [f"{name}={Path(path).name}" for name, path in options.items()]  # no folder to make
    return [*plain, f"--append={quoted}"]


def _needs_quotes(path: str) -> bool:
    return shlex.quote(path) != path


def _lines(text: bytes | None) -> tuple[str, ...]:
    return tuple(line for line in (text or b"").decode(errors="replace").splitlines() if line.strip())
