"""Folders and files for their owner only: pid files, logs, results, counters and spooled messages.

A state folder that others may write to is refused: whoever can write there can put a link in the place of a log, a
pid file or a database, and the process would write through it with its own rights.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private_folder(folder: Path, *, is_ours: bool = True) -> None:
    """Make a folder and its missing parents with mode 0700.

    ``Path.mkdir(mode=…, parents=True)`` gives the mode to the last folder only; its parents get that of the umask.

    Args:
        folder: Where.
        is_ours: Whether an existing folder must be closed to others' writing. A folder that the user chose for
            something else, such as /tmp for a pid file, is used as it is.

    Raises:
        PermissionError: It exists, and others may write to it.
        OSError: It cannot be made.
    """
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    mode = stat.S_IMODE(folder.stat().st_mode)
    if is_ours and mode & _OTHERS_MAY_WRITE:
        words = f"others may write to it (mode {mode:04o}); run `chmod go-w {folder}`"
        raise PermissionError(errno.EPERM, words, str(folder))


def open_private(file: Path | str, flags: int) -> int:
    """Open a file, made with mode 0600 if it is missing; fits the ``opener`` of `open`.

    Raises:
        OSError: It is a symbolic link, or cannot be opened.
    """
    try:
        return os.open(file, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(file) from error
        raise


def check_not_linked(file: Path) -> None:
    """Refuse a symbolic link in the place of a file that another program will open.

    Raises:
        OSError: It is one.
    """
    if file.is_symlink():
        raise _linked(file)


def write_private(file: Path, text: str) -> None:
    """Write a whole file with mode 0600; a reader sees the old text or the new one."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as stream:
        stream.write(text)
    draft.replace(file)


def _linked(file: Path | str) -> OSError:
    return OSError(errno.ELOOP, f"{file} is a symbolic link; remove it", str(file))
