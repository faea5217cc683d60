"""Building and running the `celery multi` command that starts a fleet."""

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
"""`celery multi` starts the nodes one by one; each loads the app once before it detaches."""

_CELERY_MULTI = "from celery.bin.multi import main; main()"
"""Runs `celery multi` directly: ``python -m celery`` would first import all of Celery's commands and plug-ins
(1.9 s of processor time per queue instead of 0.3 s)."""

PATH_VARIABLES = (CONFIG_VARIABLE, f"{ENV_PREFIX}STATE_DIR")
"""Variables that hold a path; workers need it absolute."""

_KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True)
class Launch:
    """The outcome of `celery multi`. A detached node may still fail to start; only its reply proves that it runs.

    Attributes:
        is_ok: Whether every node loaded the app and detached.
        lines: Stderr of `celery multi` and of the nodes until they detached.
    """

    is_ok: bool
    lines: tuple[str, ...]


def start_command(fleet: Fleet, app_name: str, state: FleetState) -> list[str]:
    """Return the `celery multi` command that starts a fleet's nodes.

    It contains no broker URL, because every user of the host can read command lines; workers read the URL from
    the settings file or the environment, as this process does.

    Args:
        fleet: The fleet, with only the nodes to start; at least one.
        app_name: Celery's ``-A`` argument.
        state: Location of the pid and log files.
    """
    return [*_nice(fleet), sys.executable, "-c", _CELERY_MULTI, *_arguments(fleet, app_name, state)]


def pasted_line(fleet: Fleet, app_name: str, state: FleetState) -> str:
    """Return the same command as a readable shell line.

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
        *([] if fleet.prefetch is None else [f"--prefetch-multiplier={fleet.prefetch}"]),
        *_limit_options(fleet.settings),
        *_path_options(state),
        "--loglevel=INFO",
        "--without-gossip",  # messages between workers that nothing here uses
        "--quiet",
    ]


def child_environment(overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment for the workers, with absolute paths.

    Args:
        overrides: Variables that take precedence, e.g. ``BROKER_APP_BROKER_URL`` of a private broker.
    """
    environment = dict(os.environ) | dict(overrides or {})
    for variable in PATH_VARIABLES:
        if environment.get(variable):
            environment[variable] = str(Path(environment[variable]).expanduser().absolute())
    if _needs_quotes(sys.executable):  # `_path_options` then passes only the file name
        folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        environment["PATH"] = os.pathsep.join(folders)
    return environment


def launch(command: list[str], environment: Mapping[str, str], timeout_seconds: float) -> Launch:
    """Run a `celery multi` command and wait for it; the workers inherit the current folder."""
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
    """Return the options for pid and log files; Celery fills in the node and the pool process number.

    `celery multi` splits the worker's command like a shell, but creates the folders of these options from the
    unquoted value. Paths that need quotes are passed through ``--append``, which it forwards unchanged: the last
    option wins.
    """
    pid_file, log_file = f"{state.run}/%n.pid", f"{state.log}/%n%I.log"
    if not any(map(_needs_quotes, (pid_file, log_file, sys.executable))):
        return [f"--pidfile={pid_file}", f"--logfile={log_file}"]
    options = {"--pidfile": pid_file, "--logfile": log_file, "--executable": sys.executable}
    quoted = " ".join(f"{name}={shlex.quote(path)}" for name, path in options.items())
    plain = [f"{name}={Path(path).name}" for name, path in options.items()]  # no folder to create
    return [*plain, f"--append={quoted}"]


def _needs_quotes(path: str) -> bool:
    return shlex.quote(path) != path


def _lines(text: bytes | None) -> tuple[str, ...]:
    return tuple(line for line in (text or b"").decode(errors="replace").splitlines() if line.strip())
