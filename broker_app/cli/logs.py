"""Logs: files for their owner only, and records that what a message holds cannot forge.

The name and id of a task, the text of an exception and the arguments are a publisher's, and stand in log lines.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from celery.app.log import Logging as CeleryLogging
from celery.utils.log import ColorFormatter

from broker_app.settings.private_files import FILE_MODE, open_private
from broker_app.text import visible_lines


class WholeRecords(logging.Formatter):
    """Formats records of which only the first line begins without a space; control characters become escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's line, and further ones if its message has them."""
        return visible_lines(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return the traceback."""
        kind, value, frames = ei if isinstance(ei, tuple) else sys.exc_info()
        return "\n".join(
            visible_lines(part.rstrip("\n")) for part in traceback.format_exception(kind, value, frames)
        )


class Logging(CeleryLogging):
    """Celery's set-up of a worker's logs, with whole records, and private files in the state folder."""

    def setup_handlers(
        self,
        logger: Any,
        logfile: Any,
        format: Any,  # noqa: A002 - Celery's name
        colorize: Any,
        formatter: Any = ColorFormatter,
        **options: Any,
    ) -> Any:
        """Give a logger its handler, as Celery; a logger that the user has set up stays as it is."""
        whole = type(f"Whole{formatter.__name__}", (WholeRecords, formatter), {})
        return super().setup_handlers(logger, logfile, format, colorize, formatter=whole, **options)

    def _detect_handler(self, logfile: Any = None) -> logging.Handler:
        if isinstance(logfile, str) and Path(logfile).absolute().is_relative_to(self.app.settings.state_dir):
            return _PrivateFileHandler(logfile, encoding="utf-8")
        handler: logging.Handler = super()._detect_handler(logfile)
        return handler


class _PrivateFileHandler(WatchedFileHandler):
    """Opens its file, again after a rotation, for its owner only."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_opened)


def _opened(file: str, flags: int) -> int:
    """Open a log; `celery worker --detach` has made it with the umask's mode, to see whether it can."""
    descriptor = open_private(file, flags)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def log_to_stderr(format: str) -> None:  # noqa: A002 - logging's name
    """Log what this process does from the level info on; of pika only what it warns of.

    Args:
        format: As logging's.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WholeRecords(format))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("pika").setLevel(logging.WARNING)  # it tells each step of each connection
