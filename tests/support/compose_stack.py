"""The stack of compose/docker-compose.yml, brought up for a test under a name of its own, and removed with it."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from containers import docker
from documents import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPOSE = ROOT / "compose" / "docker-compose.yml"
RULES = ROOT / "config" / "prometheus" / "rules.yml"

_COMMAND_SECONDS = 240
_ANSWER_SECONDS = 60
_CHOICES = {
    "BROKER_APP_IMAGE": "broker-app:test",
    "RABBITMQ_IMAGE": "rabbitmq:4-management",
    "REDIS_IMAGE": "redis:7",
    "PROMETHEUS_IMAGE": "prom/prometheus:latest",
    "BUILD_NETWORK": "host",  # a proxy of this machine is reached, and its names are known
}
_PORTS = ("RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "METRICS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


@dataclass(frozen=True)
class Stack:
    """The services that run.

    Attributes:
        command: What all commands begin with.
        services: Those that are started.
    """

    command: tuple[str, ...]
    services: tuple[str, ...]
    _places: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        """Run a command of compose and return what it printed; one that fails is an error with its words."""
        done = subprocess.run(
            [*self.command, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *options: str) -> None:
        """Start what does not run."""
        self.run("up", "-d", *options, *self.services)

    def health(self, service: str) -> str:
        """Return what Docker's health check says of a service's container: starting, healthy or unhealthy."""
        container = self.run("ps", "-q", service).strip()
        return docker("inspect", "--format", "{{.State.Health.Status}}", container)

    def cli(self, *words: str) -> str:
        """Run ``broker-app`` as a producer, in a container of its own."""
        return self.run("run", "--rm", "-T", "cli", "broker-app", *words).strip()

    def get(self, service: str, port: int, path: str) -> str:
        """Return what a service answers on this machine."""
        place = self._places.get(service) or self.run("port", service, str(port)).strip()
        assert place.startswith("127.0.0.1:"), place
        self._places[service] = place
        with build_opener(ProxyHandler({})).open(f"http://{place}{path}", timeout=_ANSWER_SECONDS) as answer:
            return str(answer.read().decode())

    def prometheus(self, path: str) -> Any:
        """Return the data of an answer of Prometheus' API."""
        return json.loads(self.get("prometheus", 9090, f"/api/v1/{path}"))["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of each series of an expression now."""
        found = self.prometheus(f"query?{urlencode({'query': expression})}")["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def value(self, expression: str) -> float | None:
        """Return the value of an expression that has one series, or None without a series."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, with their queue."""
        alerts = self.prometheus("alerts")["alerts"]
        return {
            (it["labels"]["alertname"], it["labels"].get("queue", "")) for it in alerts if it["state"] == "firing"
        }


def compose_command() -> list[str]:
    """Return Docker's plugin, or the command of before that Debian has."""
    engine = shutil.which("docker")
    assert engine, "expected Docker"
    if subprocess.run([engine, "compose", "version"], check=False, capture_output=True).returncode == 0:
        return [engine, "compose"]
    standalone = shutil.which("docker-compose")
    assert standalone, "expected `docker compose` or docker-compose; on Debian: apt-get install docker-compose"
    return [standalone]


@contextmanager
def running_stack(folder: Path, without: tuple[str, ...] = ()) -> Iterator[Stack]:
    """Build the image, start the stack with passwords of its own, and remove it with the block.

    Args:
        folder: For the file of variables, and copies of Prometheus' files with short times.
        without: Services that are left out.
    """
    (folder / "test.env").write_text("".join(f"{name}={value}\n" for name, value in _variables(folder).items()))
    project = f"broker-app-test-{secrets.token_hex(4)}"
    command = (*compose_command(), "-p", project, "-f", str(COMPOSE), "--env-file", str(folder / "test.env"))
    known = Stack(command, ())
    stack = Stack(command, tuple(it for it in known.run("config", "--services").split() if it not in without))
    try:
        try:
            stack.up("--build")
        except AssertionError as error:
            error.add_note(known.run("logs", "--tail", "40"))
            raise
        yield stack
    finally:
        known.run("down", "--volumes", "--timeout", "10")


def _variables(folder: Path) -> dict[str, str]:
    example = (ROOT / "compose" / "example.env").read_text(encoding="utf-8")
    names = re.findall(r"^(\w+)=", example, re.MULTILINE)
    passwords = {name: secrets.token_hex(8) for name in names if name != "RABBITMQ_USER"}
    files = {
        "PROMETHEUS_CONFIG": _shortened(ROOT / "compose" / "prometheus.yml", folder, r"(_interval): \w+"),
        "PROMETHEUS_RULES": _shortened(RULES, folder, r"(for): \w+"),
    }
    return passwords | {"RABBITMQ_USER": "boss"} | _CHOICES | dict.fromkeys(_PORTS, "0") | files


def _shortened(file: Path, folder: Path, pattern: str) -> str:
    """Return a copy of a file of Prometheus in which what fits is two seconds long."""
    copy = folder / file.name
    copy.write_text(re.sub(pattern, r"\1: 2s", file.read_text(encoding="utf-8")), encoding="utf-8")
    return str(copy)
