"""Broker URL file, e.g. a mounted secret: read again for each connection, so that the URL may change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker_app.settings.model import check_broker_url, read_broker_url

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


class UrlFile:
    """Reads the URL and keeps the last valid one, in case the file is read while it is being written.

    Args:
        file: The setting ``broker_url_file``.
        known: The URL in the file when the settings were read.
    """

    def __init__(self, file: Path, known: str) -> None:
        self._file = file
        self._known = known
        self._fault = ""

    def read(self) -> str:
        """Return the URL in the file, or the last valid one."""
        try:
            url = read_broker_url(self._file)
            check_broker_url(url)
        except ValueError as error:
            if str(error) != self._fault:
                logger.warning("broker_url_file %s: %s; using the last valid URL", self._file, error)
            self._fault = str(error)
        else:
            self._known, self._fault = url, ""
        return self._known
