"""On what it was measured."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

LIBRARIES = ("celery", "kombu", "amqp", "dramatiq", "pika")


def machine_facts() -> dict[str, str]:
    """Return date, processor, cores, memory, Python and the libraries' versions, as texts."""
    return {
        "Date": datetime.now(UTC).date().isoformat(),
        "Processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "Memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Python": platform.python_version(),
        "Libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
