"""What the commands exit with; docs/commands.md shows this table."""

from __future__ import annotations

OK = 0
"""What was asked for came about."""
FAILED = 1
"""What was asked for did not come about."""
USAGE = 2
"""The command line is wrong; also an unknown task or queue, and arguments that are not JSON."""
SETTINGS = 3
"""The settings file or the environment is wrong."""
BROKER = 4
"""No broker, no access to it, or it differs from the settings."""
NOT_PUBLISHED = 5
"""The broker did not take at least one task."""
DIFFERS = 6
"""The broker differs from the settings (`topology plan` and `apply`)."""
INTERRUPTED = 130
"""Ctrl-C."""
