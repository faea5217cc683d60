"""A demo as a person starts it: in a terminal's foreground, watched while it runs, and cleared away afterwards."""

from __future__ import annotations

import os
import pty
import re
import secrets
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import docker
from brokers import Management, vhost_of
from docker.errors import DockerException
from ending import ended
from waiting import wait_until

from broker_app.local_broker.container import remove_container
from broker_app.local_broker.process import kill_all, marked

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = str(Path(sys.executable).parent / "broker-app")
END_SECONDS = 90.0
JOBS = ("--jobs", "100")
"""For a demo that shows all, and soon."""

_VARIABLE = "TEST_DEMO_MARK"
_STEP_SECONDS = 90.0
_GONE_SECONDS = 30.0


class Remains:
    """The remains of a demo: processes, found by a mark in their environment, and containers.

    Args:
        state: The state folder.

    Attributes:
        mark: To be put into the demo's environment.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._value = secrets.token_hex(16)
        self._homes: set[str] = set()
        self.mark = {_VARIABLE: self._value}

    def look(self) -> set[str]:
        """Return the folders of brokers that the demo has started, as far as seen; their containers' names too."""
        self._homes |= {home.name for home in self._state.glob("demo/brokers/[!.]*")}
        return self._homes

    def processes(self) -> list[str]:
        """Return the command lines of all running descendants of the demo."""
        found = []
        for process in marked(_VARIABLE, self._value):
            with suppress(OSError):
                found.append(Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " "))
        return found

    def containers(self) -> list[str]:
        """Return the containers of the brokers that it has started, whatever their state; none without Docker."""
        if not self.look():
            return []
        try:
            with closing(docker.from_env()) as engine:
                return sorted(self._homes & {container.name for container in engine.containers.list(all=True)})
        except (OSError, DockerException):
            return []

    def assert_gone(self) -> None:
        """Fail unless all that it started has ended, the containers too."""
        wait_until(lambda: not self.processes(), _GONE_SECONDS, "the end of all its processes")
        assert not self.containers()

    def kill(self) -> None:
        """End it, by force."""
        kill_all(lambda: marked(_VARIABLE, self._value), _GONE_SECONDS)
        for container in self.containers():
            remove_container(container)


@contextmanager
def looked_after(state: Path) -> Iterator[Remains]:
    """Leave nothing of a demo behind the block, whatever became of the test."""
    remains = Remains(state)
    try:
        yield remains
    finally:
        remains.kill()


class Demo:
    """One ``broker-app demo``, and all that it starts.

    Args:
        folder: Where it runs; home and state folder are below it.
        url: The broker that it is given; None to let it start one.
        arguments: Of the command.
        is_on_terminal: Whether its stderr is a terminal.
        deaf_after: Who reads its stderr goes away after the first line with this text.

    Attributes:
        out: What it wrote to stdout, complete when it has ended.
        lines: What it has written to stderr so far.
        remains: What is left of it.
    """

    def __init__(
        self,
        folder: Path,
        url: str | None,
        *arguments: str,
        is_on_terminal: bool = False,
        deaf_after: str | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.out = ""
        self.lines: list[str] = []
        self.remains = Remains(self.state)
        self._deaf_after = deaf_after
        ours, theirs = pty.openpty() if is_on_terminal else os.pipe()
        self._err = os.fdopen(ours, errors="replace")
        (folder / "home").mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [COMMAND, "demo", *arguments],
            cwd=folder,
            env=self.environment(url),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,  # a group of its own, as a shell does for a foreground job
        )
        os.close(theirs)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_out, self._read_err)]
        for reader in self._readers:
            reader.start()

    def environment(self, url: str | None) -> dict[str, str]:
        """Return what the demo finds in its environment."""
        ours = {
            "HOME": str(self.folder / "home"),
            "TERM": "xterm",
            "COLUMNS": "100",
            "BROKER_APP_STATE_DIR": str(self.state),
        }
        given = {} if url is None else {"BROKER_APP_BROKER_URL": url}
        return os.environ | ours | given | self.remains.mark

    @property
    def pid(self) -> int:
        """The command's process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Return whether the command runs."""
        return self._process.poll() is None

    def wait_for(self, text: str) -> str:
        """Wait for a line on stderr that contains a text, and return it."""

        def find() -> str | None:
            self.remains.look()
            found = next((line for line in self.lines if text in line), None)
            assert found or self.is_running, "\n".join(self.lines)
            return found

        line = wait_until(find, _STEP_SECONDS, f"{text!r} on stderr")
        assert line is not None
        return line

    def wait_for_broker(self) -> None:
        """Wait until it has begun to start a broker of its own: there is a container, or a process of a node."""

        def has_begun() -> bool:
            assert self.is_running, "\n".join(self.lines)
            return bool(self.remains.containers()) or (
                bool(self.remains.look()) and len(self.remains.processes()) > 1
            )

        wait_until(has_begun, _STEP_SECONDS, "a broker")

    def press(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to the whole foreground group, as a terminal does at Ctrl-C."""
        os.killpg(self.pid, number)

    def end(self) -> int:
        """Wait for the end, and return the exit code."""

        def has_ended() -> bool:
            self.remains.look()
            return not self.is_running

        wait_until(has_ended, END_SECONDS, "the end of the demo")
        for reader in self._readers:
            reader.join(timeout=_GONE_SECONDS)
        return ended(self._process)

    def kill(self) -> None:
        """End all that it started, by force."""
        self.remains.kill()
        ended(self._process)

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        self.out = self._process.stdout.read()

    def _read_err(self) -> None:
        with self._err as lines, suppress(OSError):  # a terminal whose last user is gone is an error, not an end
            for line in lines:
                self.lines.append(line.rstrip("\n"))
                if self._deaf_after is not None and self._deaf_after in line:
                    return


@contextmanager
def demo(folder: Path, url: str | None, *arguments: str, **options: Any) -> Iterator[Demo]:
    """Start a demo; whatever becomes of the test, nothing of it is left behind the block."""
    made = Demo(folder, url, *arguments, **options)
    try:
        yield made
    finally:
        made.kill()


def left_on_broker(management: Management, url: str) -> list[str]:
    """Return the queues and exchanges of a virtual host that are not RabbitMQ's own."""
    vhost = quote(vhost_of(url), safe="")
    found = [one["name"] for kind in ("queues", "exchanges") for one in management.get(f"{kind}/{vhost}")]
    return [name for name in found if name and not name.startswith("amq.")]


def files_below(folder: Path) -> set[str]:
    """Return the files and folders of a demo's folder that are not in its state folder."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {path for path in found if path.split("/")[0] != "state"} - {"home"}


def refused(folder: Path, url: str | None, *arguments: str) -> str:
    """Run a demo that must fail by itself, and return the one line in which it says why."""
    with demo(folder, url, *arguments) as made:
        assert made.end() == 1
        made.remains.assert_gone()
    assert made.out == ""
    *steps, complaint = made.lines
    assert all(re.match(r"\[ *\d+\.\ds\] ", step) for step in steps), steps
    assert complaint.startswith("broker-app: ")
    return complaint
