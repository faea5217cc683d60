"""Results in Redis that coroutines await."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from celery import states
from celery.exceptions import TimeoutError as ResultTimeoutError
from ports import free_port
from redis_server import NEEDS_REDIS, redis_server

from broker_app import BrokerApp

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 90.0
COUNT = 500

pytestmark = NEEDS_REDIS


def test_many_results_in_redis_are_awaited(tmp_path: Path) -> None:
    """They arrive while coroutines wait, with fewer questions than results; one that never comes times out."""
    port = free_port()
    file = tmp_path / "settings.toml"
    file.write_text(f"state_dir = '{tmp_path}'\nresult_url = 'redis://127.0.0.1:{port}/0'\n", encoding="utf-8")
    app = BrokerApp("tests", config=file, set_as_current=False)

    def store_all() -> None:
        for number in range(COUNT):
            app.backend.store_result(f"id-{number}", number, states.SUCCESS)

    async def _wait_for_all() -> list[int]:
        waits = [asyncio.create_task(app.AsyncResult(f"id-{n}").aget(timeout=SECONDS)) for n in range(COUNT)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(store_all)
        with pytest.raises(ResultTimeoutError):
            await app.AsyncResult("never").aget(timeout=0.1)
        return list(await asyncio.gather(*waits))

    with redis_server(tmp_path, port) as client:
        assert asyncio.run(_wait_for_all()) == list(range(COUNT))
        assert client.info("commandstats")["cmdstat_mget"]["calls"] < COUNT
        app.close()
