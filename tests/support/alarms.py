"""A memory alarm on the test's broker: RabbitMQ stops reading from every connection that publishes."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers import Management

_WAIT_SECONDS = 30
_COMMAND_SECONDS = 60

_DEBIANS_SCRIPTS = "/usr/lib/rabbitmq/bin"
"""Debian's ``rabbitmqctl`` on the PATH changes to the user rabbitmq, whose cookie is another."""


@contextmanager
def memory_alarm(management: Management, amqp_url: str) -> Iterator[None]:
    """Raise the alarm for the length of a block.

    A broker whose command line cannot be reached (given by its URL, on another machine) skips the test.
    """
    command, environment = _control(urlsplit(amqp_url).port or 5672)
    counted = wait_until(
        lambda: management.get("nodes?columns=mem_limit")[0], _WAIT_SECONDS, "a new node to count its memory"
    )
    limit = counted["mem_limit"]

    def set_limit(limit_bytes: int, *, is_alarm: bool) -> None:
        arguments = [*command, "rabbitmqctl", "set_vm_memory_high_watermark", "absolute", str(limit_bytes)]
        subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=_COMMAND_SECONDS)
        wait_until(
            lambda: management.get("nodes?columns=mem_alarm")[0]["mem_alarm"] is is_alarm,
            _WAIT_SECONDS,
            f"the alarm to be {'on' if is_alarm else 'off'}",
        )

    try:
        set_limit(1_000_000, is_alarm=True)
        yield
    finally:
        set_limit(limit, is_alarm=False)


def _control(port: int) -> tuple[list[str], dict[str, str]]:
    """Return what to put before ``rabbitmqctl``, and its environment, for the broker that listens on a port."""
    if shutil.which("docker"):
        asked = subprocess.run(
            ["docker", "ps", "--quiet", "--filter", f"publish={port}"],  # noqa: S607 - from the PATH, as testcontainers
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        if container := asked.stdout.strip():
            return ["docker", "exec", container], dict(os.environ)
    for process in Path("/proc").glob("[0-9]*"):
        found = _environment(process)
        file = Path(found.get("RABBITMQ_CONFIG_FILE", ""))
        if file.is_file() and str(port) in file.read_text(encoding="utf-8"):
            scripts = f"{_DEBIANS_SCRIPTS}{os.pathsep}{found.get('PATH', os.defpath)}"
            return [], dict(found, PATH=scripts)
    pytest.skip("the memory alarm needs rabbitmqctl of the broker: a container or a private node of this machine")


def _environment(process: Path) -> dict[str, str]:
    try:
        text = (process / "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or is somebody else's
        return {}
    return dict(line.partition("=")[::2] for line in text.split("\0") if line)
