"""Units for systemd: a supervisor for each queue, and a target that holds them all."""

from __future__ import annotations

import getpass
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.errors import FleetError
from broker_app.fleet.multi import PATH_VARIABLES, child_environment
from broker_app.fleet.stop import patience_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker_app.app import BrokerApp

_END_SECONDS = 30.0
"""What a supervisor may need beyond its patience with the nodes: to kill, and to wait for another command."""

_PLAIN = re.compile(r"[A-Za-z0-9:_.@-]")
_UNQUOTED = re.compile(r"[A-Za-z0-9_@:./=+,-]+")

_SERVICE = """\
# Made by `broker-app fleet systemd`: make it anew after a change of the settings' drain_seconds.
[Unit]
Description=Workers of the queue {queue} of {app}
PartOf={target}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
{user}WorkingDirectory={folder}
EnvironmentFile=-{secrets}
{variables}ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
TimeoutStopSec={stop_seconds:.0f}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 3
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy={target}
"""

_TARGET = """\
# Made by `broker-app fleet systemd`.
[Unit]
Description=Workers of {app}
Wants={services}

[Install]
WantedBy={wanted_by}
"""


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One file for systemd.

    Attributes:
        name: Of the file.
        text: What stands in it; no secret.
    """

    name: str
    text: str


def units(app: BrokerApp, *, app_name: str, secrets: Path, is_for_user: bool = False) -> tuple[UnitFile, ...]:
    """Return a service for each queue of the settings, and the target.

    Each runs `fleet supervise`, in this process's current folder, as its user, and with its interpreter.

    Args:
        app: Whose settings count.
        app_name: What the workers get as ``-A``.
        secrets: The file from which systemd reads ``BROKER_APP_BROKER_URL`` and the like; it need not be there.
        is_for_user: Whether they are for a user's own systemd (``systemctl --user``).
    """
    base = _escaped(app_name)
    target = f"{base}.target"
    services = [
        UnitFile(
            f"{base}-{_escaped(queue)}.service",
            _SERVICE.format(
                queue=_text(queue),
                app=_text(app_name),
                target=target,
                user="" if is_for_user else f"User={getpass.getuser()}\n",
                folder=_text(str(Path.cwd())),
                secrets=_text(str(secrets.absolute())),
                variables=_variables(),
                command=_command(app_name, queue),
                stop_seconds=patience_seconds(app, [queue]) + _END_SECONDS,
            ),
        )
        for queue in app.settings.queues
    ]
    wanted_by = "default.target" if is_for_user else "multi-user.target"
    names = " ".join(service.name for service in services)
    return (*services, UnitFile(target, _TARGET.format(app=_text(app_name), services=names, wanted_by=wanted_by)))


def write_units(made: Iterable[UnitFile], folder: Path) -> tuple[Path, ...]:
    """Write the files, each as a whole, and return where they are.

    Raises:
        FleetError: The folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unit in made:
            file, fresh = folder / unit.name, folder / f".{unit.name}.new"
            fresh.write_text(unit.text, encoding="utf-8")
            written.append(fresh.replace(file))
    except OSError as error:
        raise FleetError(f"{folder}: expected a folder that can be written, got: {error.strerror}") from error
    return tuple(written)


def _command(app_name: str, queue: str) -> str:
    program = Path(sys.executable).with_name("broker-app")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "celery"]
    return " ".join(_word(word) for word in (*start, "-A", app_name, "fleet", "supervise", queue))


def _variables() -> str:
    """Return the lines of the variables that hold paths; what may be a secret belongs into the other file."""
    found = {name: value for name in PATH_VARIABLES if (value := child_environment().get(name))}
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return "".join(f"Environment={_word(f'{name}={value}')}\n" for name, value in {**found, "PATH": path}.items())


def _word(text: str) -> str:
    """Return a word of a command or an assignment (systemd.syntax(7), systemd.service(5))."""
    text = _text(text)
    if _UNQUOTED.fullmatch(text.replace("%%", "")):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _text(text: str) -> str:
    return text.replace("%", "%%")


def _escaped(name: str) -> str:
    """Return a part of a unit's name, what it cannot hold escaped as by systemd-escape(1)."""
    return "".join(
        char if _PLAIN.fullmatch(char) else "".join(f"\\x{byte:02x}" for byte in char.encode()) for char in name
    )
