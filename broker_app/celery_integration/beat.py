"""Beat: logs the refusal of a scheduled task in one line."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals

from broker_app.errors import BrokerAppError

_LOGGER = "celery.beat"


def shorten_refusals() -> None:
    """Make any beat service in this process, with any scheduler, log our errors without a traceback."""
    signals.beat_init.connect(_add_filter, weak=False, dispatch_uid=__name__)  # idempotent


def _add_filter(**_: Any) -> None:
    logging.getLogger(_LOGGER).addFilter(_FILTER)


class _OneLine(logging.Filter):
    """Replaces Celery's stack and up to three tracebacks by our error's text, which has the place and the cure."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and isinstance(error.__context__, BrokerAppError):
            record.msg, record.args, record.exc_info = "beat: %s", (error,), None
        return True


_FILTER = _OneLine()
