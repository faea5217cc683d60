"""A project with tasks on a host, and its ``broker-app metrics serve``."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import urlopen

from fleets import SCRIPTS
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from fleets import Host

SHOP = """
from broker_app import BrokerApp
app = BrokerApp("shop")

@app.task
def pack(number):
    if number < 0:
        raise ValueError(number)
    return number
"""

SEND = """
import shop
for number in range(-2, 20):
    shop.pack.apply_async([number], queue="lopri")
shop.pack.apply_async([1], queue="default", countdown=1_000)
"""


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        process: Its process.
        url: Where it answers.
    """

    process: subprocess.Popen[str]
    url: str

    def get(self, path: str) -> str:
        """Return what a path answers."""
        with urlopen(self.url + path, timeout=60) as answer:  # noqa: S310 - our own server
            body: bytes = answer.read()
        return body.decode()

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return the samples of that name, as Prometheus' own client reads them."""
        families = text_string_to_metric_families(self.get("/metrics"))
        return [
            (sample.labels, sample.value)
            for family in families
            for sample in family.samples
            if sample.name == f"broker_app_{name}"
        ]


@contextmanager
def serving(machine: Host, *arguments: str) -> Iterator[Served]:
    """Run ``broker-app metrics serve`` on a free port for the length of a block."""
    command = [str(SCRIPTS / "broker-app"), "-A", "shop", "metrics", "serve", "--port", "0", *arguments]
    with machine.popen(*command) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.fullmatch(r"metrics on (http://127\.0\.0\.1:\d+)/metrics\n", said)
            assert found, said or process.communicate()[1]
            yield Served(process, found.group(1))
        finally:
            process.kill()
