"""What a demo has running, written down in its folder, so that it can be ended by another process."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from broker_app.settings.private_files import write_private

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "demo."
"""Of everything on the broker, so that the demo touches nothing else, also on a broker that others use."""

_RECORD = "running.json"
_ENVIRONMENT = "env.sh"
_FOLDER = "demo"


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """What runs around a demo.

    Attributes:
        broker_url: With its password.
        management_url: The management API of a broker that the demo started; None if it has none, or was given.
        is_broker_ours: Whether the demo started the broker.
        site_url: The slow web site.
        site_key: What the site wants to hear before it ends.
        is_kept: Whether it is meant to outlive the demo's command.
    """

    broker_url: str = field(repr=False)
    management_url: str | None
    is_broker_ours: bool
    site_url: str
    site_key: str
    is_kept: bool = False

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the variables with which commands and workers find this demo."""
        variables = {
            "BROKER_APP_BROKER_URL": self.broker_url,
            "BROKER_APP_STATE_DIR": str(folder),
            "BROKER_APP_PREFIX": PREFIX,
        }
        if self.management_url:
            variables["BROKER_APP_MANAGEMENT_URL"] = self.management_url
        return variables

    def write(self, folder: Path) -> None:
        """Write it down, and if it is kept the file to source; both hold the password."""
        write_private(folder / _RECORD, json.dumps(asdict(self)))
        if self.is_kept:
            lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment(folder).items()]
            write_private(environment_file(folder), "".join(lines))


def demo_folder(state_dir: Path) -> Path:
    """Return the demo's folder: one of its own below the state folder.

    After ``source …/env.sh`` the state folder is the demo's folder itself, and is taken as such.
    """
    return state_dir if (state_dir / _RECORD).exists() else state_dir / _FOLDER


def environment_file(folder: Path) -> Path:
    """Return the file that a kept demo can be tried out with: ``source …/env.sh``."""
    return folder / _ENVIRONMENT


def read_running(folder: Path) -> RunningDemo | None:
    """Return what is written down in a folder; None if nothing is."""
    try:
        return RunningDemo(**json.loads((folder / _RECORD).read_text()))
    except FileNotFoundError:
        return None


def forget(folder: Path) -> None:
    """Remove what `RunningDemo.write` wrote."""
    for name in (_RECORD, _ENVIRONMENT):
        (folder / name).unlink(missing_ok=True)
