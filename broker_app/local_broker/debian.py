"""Installation of RabbitMQ from Debian's or Ubuntu's packages, for machines without Docker or RabbitMQ."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.errors import BrokerNotFound
from broker_app.local_broker.node_config import SERVER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PACKAGE = "rabbitmq-server"
_UNITS = ("rabbitmq-server.service", "epmd.socket", "epmd.service")
_SYSTEMD = Path("/run/systemd/system")  # exists if systemd is the init system (sd_booted(3))
_LOCK_SECONDS = 120
_INSTALL_SECONDS = 900


def install_server(announce: Callable[[str], None]) -> None:
    """Install the package rabbitmq-server, and stop and disable the services that it starts under systemd.

    Without systemd the package starts no services (invoke-rc.d blocks them). Checking them with ``service`` would
    start a system-wide epmd.

    Args:
        announce: Called with one sentence before each change.

    Raises:
        BrokerNotFound: The system is not Debian or Ubuntu, the user is not root, or apt-get failed.
    """
    if not _is_debian_like(_os_release()) or shutil.which("apt-get") is None:
        raise BrokerNotFound(f"{SERVER} can be installed automatically on Debian and Ubuntu only")
    if os.geteuid() != 0:
        raise BrokerNotFound(f"installing {SERVER} requires root: run sudo apt-get install {_PACKAGE}")
    idle = _idle_units()
    announce(f"installing Debian's package {_PACKAGE} with apt-get; this takes a minute or two")
    if _apt_get("install", "--yes", "--no-install-recommends", _PACKAGE):
        _apt_get_or_raise("update")
        _apt_get_or_raise("install", "--yes", "--no-install-recommends", _PACKAGE)
    if idle:
        announce(f"stopping and disabling the package's services ({', '.join(idle)}): a private node is used")
        if problem := _run("systemctl", "disable", "--now", *idle):
            announce(f"systemctl failed to disable them: {problem}")


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _is_debian_like(release: Mapping[str, str]) -> bool:
    names = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return not names.isdisjoint({"debian", "ubuntu"})


def _idle_units() -> list[str]:
    """Return the package's services that are not running; a running one was set up by the user."""
    if not _SYSTEMD.is_dir():
        return []
    return [unit for unit in _UNITS if _run("systemctl", "is-active", "--quiet", unit)]


def _apt_get_or_raise(*arguments: str) -> None:
    if problem := _apt_get(*arguments):
        raise BrokerNotFound(f"apt-get {' '.join(arguments)} failed: {problem}; install {_PACKAGE} by hand")


def _apt_get(*arguments: str) -> str:
    return _run("apt-get", "-qq", "-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}", *arguments)


def _run(*command: str) -> str:
    """Run a command and return the last line of its output if it failed; empty if it succeeded."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stdout.strip().splitlines() or [f"status {done.returncode}"])[-1]
