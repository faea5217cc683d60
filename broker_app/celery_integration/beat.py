"""Celery beat: a scheduled task that the app refuses is logged in one line."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals

from broker_app.errors import BrokerAppError

_LOGGER = "celery.beat"


def shorten_refusals() -> None:
    """Let any beat that starts in this process, whatever its scheduler, log our errors without a traceback."""
    signals.beat_init.connect(_add_filter, weak=False, dispatch_uid=__name__)  # more than once is once


def _add_filter(**_: Any) -> None:
    logging.getLogger(_LOGGER).addFilter(_FILTER)


class _OneLine(logging.Filter):
    """Celery logs the stack and up to three tracebacks; our error's text says where, what, and what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and isinstance(error.__context__, BrokerAppError):
            record.msg, record.args, record.exc_info = "beat: %s", (error,), None
        return True


_FILTER = _OneLine()
