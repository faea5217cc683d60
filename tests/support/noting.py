"""A task that runs whatever it is called with, for workers that are started with ``-A workload -I noting``."""

from __future__ import annotations

import os
from typing import Any

from workload import app, note

FILE = "NOTING_FILE"
"""The variable that names the file."""


@app.task(bind=True, ignore_result=True)
def anything(self: Any, *_: Any, **__: Any) -> None:
    """Note the correlation id of its message."""
    note(os.environ[FILE], self.request.correlation_id)
