"""Exit codes of the commands; docs/reference/commands.md shows this table."""

from __future__ import annotations

OK = 0
"""Success."""
FAILED = 1
"""The command failed."""
USAGE = 2
"""Invalid command line, unknown task or queue, arguments that are not JSON, task modules that fail to import."""
SETTINGS = 3
"""Invalid settings file or environment."""
BROKER = 4
"""The broker is unreachable, denies access, or differs from the settings."""
NOT_PUBLISHED = 5
"""The broker did not accept at least one task."""
DIFFERS = 6
"""The broker differs from the settings (`topology plan` and `apply`)."""
INTERRUPTED = 130
"""Ctrl-C."""
