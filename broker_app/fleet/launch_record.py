"""What a node was started with: kept beside its pid file, and compared with what the settings say now."""

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
    """How a node was started.

    Attributes:
        definition: A digest of its command, variables and settings, and of the version.
        version: Of broker-app.
        boot: Which start of the machine it was; empty where the system does not tell.
    """

    definition: str
    version: str
    boot: str

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Return what stands in a file; None if there is none, or it is not whole."""
        try:
            found: dict[str, Any] = json.loads(file.read_bytes())
            return cls(found["definition"], found["version"], found["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Write it.

        Raises:
            FleetError: The disk is full, or the folder cannot be written.
        """
        try:
            write_private(file, json.dumps(asdict(self)))
        except OSError as error:
            raise FleetError(f"{file}: expected a file that can be written, got: {error.strerror}") from error


def record_of(fleet: Fleet, settings: Settings, command: Sequence[str]) -> LaunchRecord:
    """Return how a fleet's nodes would be started now.

    What the settings say of other queues, of the number of nodes and of the metrics' server does not count: it
    changes nothing in this fleet's workers.

    Args:
        fleet: Whose queue the settings declare.
        settings: All of them: workers read more than stands on their command line.
        command: The `celery multi` command, without the nodes.
    """
    queue = settings.queues[fleet.queue].model_dump(exclude={"fleet": {"nodes"}})
    rest = settings.model_dump(exclude={"queues", "metrics"})
    metrics = settings.metrics.model_dump(include={"enabled", "max_tasks"})
    version = installed_version()
    content = json.dumps([list(command), queue, rest, metrics, version], default=_plain, sort_keys=True)
    return LaunchRecord(hashlib.sha256(content.encode()).hexdigest(), version, boot_id())


def installed_version() -> str:
    """Return the version of broker-app that a node would be started with."""
    return metadata.version("broker-app")


@cache
def boot_id() -> str:
    """Return which start of the machine this is (proc(5)); empty where the system does not tell."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
