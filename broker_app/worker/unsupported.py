"""Unsupported pools: a worker refuses to start where its tasks would be lost or held up."""

from __future__ import annotations

from typing import Any

from broker_app.errors import SettingsError
from broker_app.settings import shown_in_one_line


def refuse_unsupported(pool: Any, app: Any) -> None:
    """Refuse a pool that does not fit, or not these tasks.

    Args:
        pool: Celery's pool.
        app: The app, with its tasks.

    Raises:
        SettingsError: The pool is eventlet, or gevent with tasks that are ``async def``.
    """
    _refuse_eventlet(pool)
    _refuse_coroutines(pool, app)


def _refuse_eventlet(pool: object) -> None:
    """Refuse to start with eventlet, for which time limits and bounded shutdown are not implemented."""
    if type(pool).__module__.endswith(".eventlet"):
        with shown_in_one_line():
            raise SettingsError(["-P eventlet: expected prefork, threads, gevent or solo; use -P gevent instead"])


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
            raise SettingsError([f"{problem}; use -P threads, or leave their modules out of this worker"])
