"""A Redis server of a test's own."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from ending import Process
from redis import Redis, RedisError
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEEDS_REDIS = pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")

_SECONDS = 120.0


@contextmanager
def redis_server(folder: Path, port: int) -> Iterator[Redis]:
    """Run a Redis for the length of a block, and yield a client; it keeps what it has for the next block."""
    command = ["redis-server", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
    command += ["--appendfsync", "always"]
    with Process(command, stdout=subprocess.DEVNULL) as process, Redis(port=port) as client:
        try:
            wait_until(lambda: _answers(client), _SECONDS, "Redis")
            yield client
        finally:
            process.kill()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:  # not there yet, or reading its file
        return False
