"""Django: closes the database connections that a result backend opens outside tasks.

Celery's fix-up closes a thread's connections around each task. But a worker also stores results outside tasks: for
invalid messages, cancelled tasks and exceeded time limits. Without this module such a connection would stay open,
and fail after the database was restarted.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.fixups.django import DjangoFixup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.backends.base import Backend

logger = logging.getLogger(__name__)


class _Closing:
    """Mix-in for the backend's class."""

    app: Any

    def _store_result(self, *args: Any, **options: Any) -> Any:
        with _closing(self.app):
            return super()._store_result(*args, **options)  # type: ignore[misc]

    def _get_task_meta_for(self, *args: Any, **options: Any) -> Any:
        with _closing(self.app):
            return super()._get_task_meta_for(*args, **options)  # type: ignore[misc]

    def on_chord_part_return(self, *args: Any, **options: Any) -> Any:
        """Count a finished member of a chord, as Celery does."""
        with _closing(self.app):
            return super().on_chord_part_return(*args, **options)  # type: ignore[misc]


@contextmanager
def _closing(app: Any) -> Iterator[None]:
    try:
        yield
    finally:
        if get_current_task() is None:
            for fixup in app._fixups:  # noqa: SLF001 - Celery has no public access to them
                _close(fixup)


def _close(fixup: Any) -> None:
    in_worker = getattr(fixup, "_worker_fixup", None)
    if in_worker is None or in_worker.worker is None:  # Django manages a producer's connections
        return
    try:
        in_worker.close_database()
    except Exception as error:  # noqa: BLE001 - each database raises its own errors; the result is stored
        logger.warning("failed to close a connection to Django's database: %r", error)


def closing(backend: Backend) -> Backend:
    """Make a backend close the connections that it opens outside tasks, if the app uses Django; return it."""
    if not any(isinstance(fixup, DjangoFixup) for fixup in backend.app._fixups):  # noqa: SLF001
        return backend
    kind = type(backend)
    backend.__class__ = type(kind.__name__, (_Closing, kind), {"__module__": kind.__module__})
    return backend
