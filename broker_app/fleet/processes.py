"""Which worker processes run here, found by the pid file on their command line.

A pid file alone proves nothing: its process may be gone and the number another program's, and a worker that
is still starting has none yet. The command line of a worker names its pid file from the first moment on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.errors import FleetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_NODE_NAME = re.compile(r"(?:^|[\0\s])(?:-n|--hostname)[\0\s=]([^\0\s@]+@[^\0\s)]+)")


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """One running process.

    Attributes:
        pid: Its number.
        parent: Its parent's.
        command: Its command line, the arguments separated by NUL or blanks.
    """

    pid: int
    parent: int
    command: str

    @property
    def node_name(self) -> str | None:
        """What the worker was named with ``-n``, or None."""
        match = _NODE_NAME.search(self.command)
        return match.group(1) if match else None


def find_workers(run: Path) -> dict[str, tuple[NodeProcess, ...]]:
    """Return the workers whose pid file is in a folder, by the file's stem.

    A worker's own children (of the pool prefork) have its command line; they are left out while it lives.

    Args:
        run: The folder of the pid files, absolute.

    Raises:
        FleetError: This system shows no processes: there is neither /proc nor a `ps`.
    """
    wanted = re.compile(rf"--pidfile={re.escape(str(run))}/([^/\0]+?)\.pid(?=[\0\s)]|$)")
    found: dict[str, list[NodeProcess]] = defaultdict(list)
    for process in all_processes():
        match = wanted.search(process.command)
        if match and "%" not in match.group(1) and _is_in_our_namespace(process.pid):
            found[match.group(1)].append(process)
    return {stem: _without_children(processes) for stem, processes in found.items()}


def run_folders(app_name: str) -> set[Path]:
    """Return the folders of the pid files of all workers of an app that this user sees, by their command lines.

    Args:
        app_name: As Celery's ``-A``.
    """
    wanted = re.compile(
        rf"[\0\s]-A[\0\s]{re.escape(app_name)}[\0\s].*--pidfile=([^\0]+?)/[^/\0]+\.pid(?=[\0\s)]|$)"
    )
    found = {process.pid: wanted.search(process.command) for process in all_processes()}
    return {Path(match.group(1)) for pid, match in found.items() if match and _is_in_our_namespace(pid)}


def all_processes() -> Iterator[NodeProcess]:
    """Yield the processes of this host, as far as this user sees them.

    Raises:
        FleetError: This system shows none: there is neither /proc nor a `ps`.
    """
    return _from_proc() if (_PROC / "self" / "cmdline").exists() else _from_ps()


def terminate(pid: int) -> None:
    """Ask a worker to finish its tasks and end; nothing happens if it is gone.

    Raises:
        FleetError: It belongs to another user.
    """
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise FleetError(
            f"pid {pid}: expected a process of this user, it belongs to another; stop it as that user"
        ) from error


def kill(pid: int) -> None:
    """End a worker and its pool's processes at once; nothing happens if it is gone.

    A detached worker leads no group of its own making but is in the one that `celery multi` made for it.
    """
    try:
        group = os.getpgid(pid)
        if group == os.getsid(pid) != os.getsid(0):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _without_children(processes: list[NodeProcess]) -> tuple[NodeProcess, ...]:
    pids = {process.pid for process in processes}
    return tuple(process for process in processes if process.parent not in pids)


def _from_proc() -> Iterator[NodeProcess]:
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            # proc(5): the name in parentheses may hold blanks and parentheses; the state and the parent follow
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile, or is hidden from us
            continue
        yield NodeProcess(int(folder.name), parent, command)


def _from_ps() -> Iterator[NodeProcess]:
    command = ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "args="]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FleetError(f"expected /proc or `ps` to find the workers, got: {error}; install ps") from error
    for line in shown.stdout.splitlines():
        pid, parent, arguments = (*line.split(maxsplit=2), "")[:3]
        yield NodeProcess(int(pid), int(parent), arguments)


def _is_in_our_namespace(pid: int) -> bool:
    """Return whether a process is not in a container of this host, where the same path is another folder."""
    try:
        return (_PROC / str(pid) / "ns/pid").readlink() == (_PROC / "self/ns/pid").readlink()
    except FileNotFoundError:
        return not (_PROC / "self/ns").exists()  # no such thing here; or it ended meanwhile
    except PermissionError:
        return False
