"""Settings file editing: writes a pool and its slots, and preserves comments and all other content.

Only two lines are edited. The result is parsed again and refused if it differs in anything but the two values. A
library that preserves comments would be a dependency for two lines.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from broker_app.errors import SettingsError

_HEADER = re.compile(r"\s*\[")


def apply_fleet(file: Path, queue: str, pool: str, slots: int) -> None:
    """Set ``pool`` and ``concurrency`` of ``[queues.<queue>.fleet]`` in a settings file.

    The file is replaced atomically and keeps its mode; a symbolic link is followed.

    Raises:
        SettingsError: The file cannot be read or written, or uses unsupported syntax for the fleet, such as an
            inline table. The message contains the lines to write.
    """
    file = file.resolve()
    try:
        text = file.read_bytes().decode()
        edited = with_fleet(text, queue, pool, slots)
        if edited != text:
            _replace(file, edited)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, _NotEdited) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            [f'{file}: {reason}; write [queues.{queue}.fleet] pool = "{pool}", concurrency = {slots} yourself']
        ) from error


def fleet_lines(queue: str, pool: str, slots: int) -> list[str]:
    """Return the lines that `apply_fleet` writes to a settings file."""
    return [f"[queues.{_key(queue)}.fleet]", f'pool = "{pool}"', f"concurrency = {slots}"]


def with_fleet(text: str, queue: str, pool: str, slots: int) -> str:
    """Return a settings file's text with the two values set.

    Raises:
        tomllib.TOMLDecodeError: The text is not valid TOML.
        ValueError: The edit would change anything else, or would not set the values.
    """
    before = tomllib.loads(text)
    if queue not in before.get("queues", {}):
        raise _NotEdited(
            f"it does not declare the built-in queue {queue!r}; a file that declares one must declare all"
        )
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith(newline):
        lines[-1] += newline
    start = _find_table(lines, queue)
    if start is None:
        lines += [newline, f"[queues.{_key(queue)}.fleet]{newline}"]
        start = len(lines)
    for key, value in {"concurrency": str(slots), "pool": f'"{pool}"'}.items():
        _set(lines, start, key, value, newline)
    edited = "".join(lines)
    _check(before, edited, queue, {"pool": pool, "concurrency": slots})
    return edited


class _NotEdited(ValueError):
    """The file uses syntax that this editor does not support."""


def _find_table(lines: list[str], queue: str) -> int | None:
    """Return the number of the line after the header of the queue's fleet, None without such a header."""
    name = rf"(?:{re.escape(queue)}|\"{re.escape(queue)}\"|'{re.escape(queue)}')"
    header = re.compile(rf"\s*\[\s*queues\s*\.\s*{name}\s*\.\s*fleet\s*\]\s*(?:#.*)?$")
    return next((number + 1 for number, line in enumerate(lines) if header.match(line.rstrip())), None)


def _set(lines: list[str], start: int, key: str, value: str, newline: str) -> None:
    """Set a key of the table that starts at a line, adding it at the start of the table if it is missing."""
    end = next((number for number in range(start, len(lines)) if _HEADER.match(lines[number])), len(lines))
    pattern = re.compile(rf"(\s*{key}\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s#]+)(\s*(?:#.*)?)$")
    for number in range(start, end):
        match = pattern.match(lines[number].rstrip("\r\n"))
        if match:
            lines[number] = f"{match.group(1)}{value}{_padded(match, value)}{newline}"
            return
    lines.insert(start, f"{key} = {value}{newline}")


def _padded(match: re.Match[str], value: str) -> str:
    """Return the comment after a value, kept in its column if there is room."""
    rest = match.group(3)
    if not rest.lstrip().startswith("#"):
        return rest
    width = len(match.group(2)) + len(rest) - len(rest.lstrip()) - len(value)
    return " " * max(1, width) + rest.lstrip()


def _check(before: dict[str, Any], edited: str, queue: str, wanted: dict[str, Any]) -> None:
    try:
        after = tomllib.loads(edited)
    except tomllib.TOMLDecodeError as error:
        raise _NotEdited("its fleet table uses syntax that this command cannot edit") from error
    expected = before | {
        "queues": before.get("queues", {}) | {queue: dict(before.get("queues", {}).get(queue, {}))}
    }
    fleet = expected["queues"][queue].get("fleet", {})
    expected["queues"][queue]["fleet"] = fleet | wanted
    if after != expected:
        raise _NotEdited("its fleet table uses syntax that this command cannot edit")


def _key(queue: str) -> str:
    return f'"{queue}"' if "." in queue else queue


def _replace(file: Path, text: str) -> None:
    mode = file.stat().st_mode
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as output:
            output.write(text.encode())
        Path(name).chmod(mode & 0o7777)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
