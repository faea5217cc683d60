"""The record of a running demo, kept in its folder so that another process can stop it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from broker_app.settings.private_files import write_private

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "demo."
"""Prefix of the demo's objects, so that it touches nothing else on a shared broker."""

_RECORD = "running.json"
_ENVIRONMENT = "env.sh"
_FOLDER = "demo"


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """The processes and addresses of a demo.

    Attributes:
        broker_url: URL of the broker, with its password.
        management_url: URL of the management API, if the demo started the broker and it has one; else None.
        is_broker_ours: Whether the demo started the broker.
        site_url: URL of the slow web site.
        site_key: The key that authorises stopping the site.
        is_kept: Whether it outlives the demo command.
    """

    broker_url: str = field(repr=False)
    management_url: str | None
    is_broker_ours: bool
    site_url: str
    site_key: str
    is_kept: bool = False

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment variables with which commands and workers find this demo."""
        variables = {
            "BROKER_APP_BROKER_URL": self.broker_url,
            "BROKER_APP_STATE_DIR": str(folder),
            "BROKER_APP_PREFIX": PREFIX,
        }
        if self.management_url:
            variables["BROKER_APP_MANAGEMENT_URL"] = self.management_url
        return variables

    def write(self, folder: Path) -> None:
        """Write the record, and for a kept demo the file to source; both contain the password."""
        write_private(folder / _RECORD, json.dumps(asdict(self)))
        if self.is_kept:
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment(folder).items()]
            write_private(environment_file(folder), "".join(lines))


def demo_folder(state_dir: Path) -> Path:
    """Return the demo's folder below the state folder.

    After ``source …/env.sh`` the state folder already is the demo's folder.
    """
    return state_dir if (state_dir / _RECORD).exists() else state_dir / _FOLDER


def environment_file(folder: Path) -> Path:
    """Return the file to source for using a kept demo: ``source …/env.sh``."""
    return folder / _ENVIRONMENT


def read_running(folder: Path) -> RunningDemo | None:
    """Read the record in a folder; None if it does not exist."""
    try:
        return RunningDemo(**json.loads((folder / _RECORD).read_text()))
    except FileNotFoundError:
        return None


def forget(folder: Path) -> None:
    """Remove what `RunningDemo.write` wrote."""
    for name in (_RECORD, _ENVIRONMENT):
        (folder / name).unlink(missing_ok=True)
