"""Debian's Prometheus for the tests: ``promtool`` and the server. Without it they are skipped, but not in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; without it the test is skipped, but fails in CI."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"expected {name} on the PATH, got none; apt-get install --no-install-recommends prometheus"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
