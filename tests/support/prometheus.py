"""Debian's Prometheus for the tests: ``promtool`` and the server. Without it they are skipped, but not in CI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from ending import ended
from ports import free_port
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs.

    Attributes:
        url: Where it answers.
    """

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; an error that it tells is raised in its words."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        try:
            with urlopen(f"{self.url}/api/v1/{path}{query}", timeout=60) as answer:  # noqa: S310 - our own server
                return json.load(answer)["data"]
        except HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series of an expression now, each with its labels and value."""
        found: list[dict[str, Any]] = self.get("query", query=expr)["result"]
        return found

    def value(self, expr: str) -> float | None:
        """Return the sum of an expression now, None if it gives nothing."""
        values = [float(series["value"][1]) for series in self.query(expr)]
        return sum(values) if values else None


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; without it the test is skipped, but fails in CI."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"expected {name} on the PATH, got none; apt-get install --no-install-recommends prometheus"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running_prometheus(folder: Path, config: str) -> Iterator[Prometheus]:
    """Run Prometheus on this host alone for the length of a block.

    Args:
        folder: For its data; files that the configuration names are sought there.
        config: Its configuration.
    """
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    port = free_port()
    command = [program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_until(lambda: _is_ready(process, port), _START_SECONDS, f"Prometheus to be ready: {log}")
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        ended(process)


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    assert process.poll() is None, "Prometheus has ended"
    try:
        with urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (HTTPError, URLError, OSError):
        return False
