"""Unsupported pools: a worker refuses to start where its tasks would be lost or held up."""

from __future__ import annotations

import sys
from typing import Any

from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line


def refuse_unsupported(pool: Any, app: Any) -> None:
    """Refuse a pool that does not fit, or not these tasks.

    Args:
        pool: Celery's pool.
        app: The app, with its tasks.

    Raises:
        SettingsError: The pool is eventlet, or gevent with tasks that are ``async def``, or asyncio in a process
            that gevent or eventlet has patched.
    """
    _refuse_eventlet(pool)
    _refuse_patched(pool)
    _refuse_coroutines(pool, app)


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


def _is_patched_by_gevent() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _is_patched_by_eventlet() -> bool:
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))


_PATCHERS = {"gevent": _is_patched_by_gevent, "eventlet": _is_patched_by_eventlet}


def _refuse_coroutines(pool: Any, app: Any) -> None:
    """Refuse ``async def`` tasks with gevent; a class with its own ``__call__`` may run them itself."""
    if not getattr(pool, "is_green", False):
        return
    found = sorted(
        task.name for task in app.tasks.values() if getattr(task, "is_async", False) and not task.has_own_call
    )
    if found:
        with shown_in_one_line():
            problem = f"-P gevent: expected plain tasks, got async def: {', '.join(found)}"
            cure = "use -P asyncio or -P threads, or leave their modules out of this worker"
            raise SettingsError([f"{problem}; {cure}"])
