"""Pool names: makes Celery accept ``-P asyncio``."""

from __future__ import annotations

import sys

from celery import concurrency

NAME = "asyncio"

POOL = "broker_app.worker.pools.asyncio_pool:TaskPool"


def add_asyncio_pool() -> None:
    """Add our pool to Celery's; the command line, which has read their names already, learns of it too."""
    concurrency.ALIASES.setdefault(NAME, POOL)
    command = sys.modules.get("celery.bin.worker")
    if command is not None and NAME not in command.WORKERS_POOL.choices:
        command.WORKERS_POOL.choices = (*command.WORKERS_POOL.choices, NAME)
