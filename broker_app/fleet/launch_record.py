"""Launch records: what a node was started with, saved next to its pid file to detect changed settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import SecretStr

from broker_app.errors import FleetError
from broker_app.settings.private_files import write_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker_app.fleet.nodes import Fleet
    from broker_app.settings import Settings

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """The configuration a node was started with.

    Attributes:
        definition: Digest of its command, environment, settings and the version.
        version: Version of broker-app.
        boot: The machine's boot id; empty where the system has none.
    """

    definition: str
    version: str
    boot: str

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read a record; None if the file is missing or incomplete."""
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
            return cls(found["definition"], found["version"], found["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Write the record.

        Raises:
            FleetError: The disk is full or the folder is not writable.
        """
        try:
            write_private(file, json.dumps(asdict(self)))
        except OSError as error:
            raise FleetError(f"{file}: expected a file that can be written, got: {error.strerror}") from error


def record_of(fleet: Fleet, settings: Settings, command: Sequence[str]) -> LaunchRecord:
    """Return the record that a fleet's nodes would get if started now.

    Settings of other queues, the number of nodes and the metrics server are excluded: they do not affect this
    fleet's workers.

    Args:
        fleet: The fleet; the settings must declare its queue.
        settings: All settings; workers read more of them than their command line shows.
        command: The `celery multi` command without the node names.
    """
    queue = settings.queues[fleet.queue].model_dump(exclude={"fleet": {"nodes"}})
    rest = settings.model_dump(exclude={"queues", "metrics"})
    metrics = settings.metrics.model_dump(include={"enabled", "max_tasks"})
    version = installed_version()
    content = json.dumps([list(command), queue, rest, metrics, version], default=_plain, sort_keys=True)
    return LaunchRecord(hashlib.sha256(content.encode()).hexdigest(), version, boot_id())


def installed_version() -> str:
    """Return the installed version of broker-app."""
    return metadata.version("broker-app")


@cache
def boot_id() -> str:
    """Return the machine's boot id (proc(5)); empty where the system has none."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
