"""Worker processes on this host, identified by the ``--pidfile`` on their command line.

A pid file alone is not enough: its process may be gone and the pid reused, and a starting worker has none yet.
The command line names the pid file from the start.
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
        pid: Process id.
        parent: Process id of the parent.
        command: Command line, arguments separated by NUL or spaces.
    """

    pid: int
    parent: int
    command: str

    @property
    def node_name(self) -> str | None:
        """The worker's ``-n`` argument, or None."""
        match = _NODE_NAME.search(self.command)
        return match.group(1) if match else None


def find_workers(run: Path) -> dict[str, tuple[NodeProcess, ...]]:
    """Return the workers whose pid file is in a folder, by the file's stem.

    Prefork children share their parent's command line; they are omitted while the parent runs.

    Args:
        run: The folder of the pid files, absolute.

    Raises:
        FleetError: Neither /proc nor `ps` is available.
    """
    wanted = re.compile(rf"--pidfile={re.escape(str(run))}/([^/\0]+?)\.pid(?=[\0\s)]|$)")
    found: dict[str, list[NodeProcess]] = defaultdict(list)
    for process in all_processes():
        match = wanted.search(process.command)
        if match and "%" not in match.group(1) and _is_in_our_namespace(process.pid):
            found[match.group(1)].append(process)
    return {stem: _without_children(processes) for stem, processes in found.items()}


def run_folders(app_name: str) -> set[Path]:
    """Return the pid file folders of all workers of an app that are visible to this user.

    Args:
        app_name: Celery's ``-A`` argument.
    """
    wanted = re.compile(
        rf"[\0\s]-A[\0\s]{re.escape(app_name)}[\0\s].*--pidfile=([^\0]+?)/[^/\0]+\.pid(?=[\0\s)]|$)"
    )
    found = {process.pid: wanted.search(process.command) for process in all_processes()}
    return {Path(match.group(1)) for pid, match in found.items() if match and _is_in_our_namespace(pid)}


def all_processes() -> Iterator[NodeProcess]:
    """Yield the processes of this host that are visible to this user.

    Raises:
        FleetError: Neither /proc nor `ps` is available.
    """
    return _from_proc() if (_PROC / "self" / "cmdline").exists() else _from_ps()


def terminate(pid: int) -> None:
    """Send SIGTERM, so that a worker finishes its tasks and exits; do nothing if it is gone.

    Raises:
        FleetError: The process belongs to another user.
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
    """Kill a worker and its pool processes; do nothing if it is gone.

    A detached worker runs in the process group that `celery multi` created for it, so the group is killed.
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
            # proc(5): the name in parentheses may contain spaces and parentheses; state and parent pid follow
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # it has ended, or is hidden from this user
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
    """Return False for processes in a container on this host, where the same path is a different folder."""
    try:
        return (_PROC / str(pid) / "ns/pid").readlink() == (_PROC / "self/ns/pid").readlink()
    except FileNotFoundError:
        return not (_PROC / "self/ns").exists()  # no namespaces on this system, or the process has ended
    except PermissionError:
        return False
