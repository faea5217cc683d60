"""Private files: folders and files that only their owner can access, e.g. pid files, logs, results, the spool.

A state folder that other users can write to is refused. They could replace a log, a pid file or a database with a
link, and the process would write through it with its own permissions.
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


class OpenToOthersError(PermissionError):
    """Raised for a folder of state that other users can write to; `strerror` says what to do."""

    def __init__(self, folder: Path, mode: int) -> None:
        if mode & stat.S_ISVTX:  # as /tmp: a folder for everybody
            cure = "set state_dir or BROKER_APP_STATE_DIR to a folder below it"
        else:
            cure = f"run `chmod go-w {folder}`"
        words = f"expected a folder that only its owner may write to, got mode {mode:04o}; {cure}"
        super().__init__(errno.EPERM, words, str(folder))


def unusable(folder: Path, error: OSError) -> str:
    """Return the error message for a folder of state: where, expected, got, and one cure."""
    if isinstance(error, OpenToOthersError):
        return f"{error.filename}: {error.strerror}"
    return (
        f"{folder}: expected a folder that this user may write, got: {error.strerror}; correct it, or set "
        f"state_dir or BROKER_APP_STATE_DIR to another"
    )


def is_writable_folder(folder: Path) -> bool:
    """Return whether a folder, or its nearest existing parent, is writable; nothing is created."""
    while not _is_there(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and is_writable(folder, os.W_OK | os.X_OK)


def is_writable(path: Path, mode: int = os.W_OK) -> bool:
    """Return whether this process may write to a file or folder."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def make_private_folder(folder: Path, *, is_ours: bool = True) -> None:
    """Create a folder and its missing parents with mode 0700.

    ``Path.mkdir(mode=…, parents=True)`` applies the mode to the last folder only; its parents get the umask's.

    Args:
        folder: The folder.
        is_ours: Whether to refuse an existing folder that other users can write to. False for a folder with other
            uses, such as /tmp for a pid file.

    Raises:
        OpenToOthersError: The folder exists, and other users can write to it.
        OSError: The folder cannot be created.
    """
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=FOLDER_MODE, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if is_ours:
        check_closed_to_others(folder)


def check_closed_to_others(folder: Path) -> None:
    """Check that only its owner may write to an existing folder.

    Raises:
        OpenToOthersError: Other users can write to it.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS_MAY_WRITE:
        raise OpenToOthersError(folder, mode)


def open_private(file: Path | str, flags: int) -> int:
    """Open a file, and create it with mode 0600 if needed. Can be passed to `open` as ``opener``.

    Raises:
        OSError: The file is a symbolic link or cannot be opened.
    """
    try:
        return os.open(file, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(file) from error
        raise


def check_not_linked(file: Path) -> None:
    """Check that a file which another program will open is not a symbolic link.

    Raises:
        OSError: It is a symbolic link.
    """
    if file.is_symlink():
        raise _linked(file)


def write_private(file: Path, text: str) -> None:
    """Replace a file atomically, with mode 0600; a reader sees either the old text or the new one."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(open_private(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as stream:
        stream.write(text)
    draft.replace(file)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # a parent folder is not searchable
        return False


def _linked(file: Path | str) -> OSError:
    return OSError(errno.ELOOP, f"{file} is a symbolic link; remove it", str(file))
