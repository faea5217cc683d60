"""Log setup: private log files, and protection against forged log records.

Log lines contain text that publishers control: task names, ids, arguments and exception messages.
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
    """Formats records so that continuation lines start with a space; control characters are escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the message, which may have several lines."""
        return visible_lines(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Format the traceback."""
        kind, value, frames = ei if isinstance(ei, tuple) else sys.exc_info()
        return "\n".join(
            visible_lines(part.rstrip("\n")) for part in traceback.format_exception(kind, value, frames)
        )


class Logging(CeleryLogging):
    """Celery's log setup with `WholeRecords`, and private files in the state folder."""

    def setup_handlers(
        self,
        logger: Any,
        logfile: Any,
        format: Any,  # noqa: A002 - Celery's name
        colorize: Any,
        formatter: Any = ColorFormatter,
        **options: Any,
    ) -> Any:
        """Add a handler to a logger, like Celery; a logger that the user has configured is left as it is."""
        whole = type(f"Whole{formatter.__name__}", (WholeRecords, formatter), {})
        return super().setup_handlers(logger, logfile, format, colorize, formatter=whole, **options)

    def _detect_handler(self, logfile: Any = None) -> logging.Handler:
        if isinstance(logfile, str) and Path(logfile).absolute().is_relative_to(self.app.settings.state_dir):
            return _PrivateFileHandler(logfile, encoding="utf-8")
        handler: logging.Handler = super()._detect_handler(logfile)
        return handler


class _PrivateFileHandler(WatchedFileHandler):
    """Opens its file, also after a rotation, readable by its owner only."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=_opened)


def _opened(file: str, flags: int) -> int:
    """Open a log privately; `celery worker --detach` has already created it with the umask's mode."""
    descriptor = open_private(file, flags)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def log_to_stderr(format: str) -> None:  # noqa: A002 - logging's name
    """Log to stderr at level INFO; from pika only warnings.

    Args:
        format: Format string, as in `logging`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(WholeRecords(format))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("pika").setLevel(logging.WARNING)  # at INFO it logs every step of every connection
