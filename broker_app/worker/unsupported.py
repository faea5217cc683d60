"""Unsupported pools: a worker refuses to start where its tasks would be lost or held up."""

from __future__ import annotations

import sys

from broker_app.coroutines.green_loop import is_green
from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line


def refuse_unsupported(pool: object) -> None:
    """Refuse a pool that does not fit.

    Args:
        pool: Celery's pool.

    Raises:
        SettingsError: The pool is eventlet, or asyncio in a process that gevent or eventlet has patched.
    """
    _refuse_eventlet(pool)
    _refuse_patched(pool)


def _refuse_eventlet(pool: object) -> None:
    """Refuse to start with eventlet, for which time limits and bounded shutdown are not implemented."""
    if type(pool).__module__.endswith(".eventlet"):
        with shown_in_one_line():
            known = "prefork, threads, asyncio, gevent or solo"
            raise SettingsError([f"-P eventlet: expected {known}; use -P gevent instead"])


def _refuse_patched(pool: object) -> None:
    """Refuse asyncio where threads are greenlets: its loop and the worker's would wait for each other."""
    if not type(pool).__module__.endswith(".asyncio_pool"):
        return
    for patcher in (by for by, is_patched in _PATCHERS.items() if is_patched()):
        with shown_in_one_line():
            problem = f"-P asyncio: expected a process without green threads, got one that {patcher} has patched"
            raise SettingsError([f"{problem}; remove its monkey patching"])


def _is_patched_by_eventlet() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))


_PATCHERS = {"gevent": is_green, "eventlet": _is_patched_by_eventlet}
