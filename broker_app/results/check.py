"""Checks of the result store for `broker-app check`: it loads, it answers, and all workers share it."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend

from broker_app.broker.findings import Finding, Level
from broker_app.errors import SettingsError
from broker_app.settings.private_files import is_writable, is_writable_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

ANSWER_SECONDS = 5.0
"""Time limit for the store's answer to a check."""

_SQLITE = b"SQLite format 3\0"

ASK_SECONDS = 1.0
"""Time limit for workers' answers, the same as in `celery inspect`."""


def judge_store(app: Celery) -> Iterator[Finding]:
    """Check what needs no connection: Celery's configuration, the store's package and the SQLite file."""
    try:
        backend = app.backend
    except SettingsError as error:
        for problem in error.problems:
            where, _, text = problem.partition(": ")
            yield Finding(Level.ERROR, where, text)
        return
    file = sqlite_file(app)
    if file is not None:
        yield _judge_file(file)
    elif isinstance(backend, DisabledBackend):
        yield Finding(Level.WARNING, "results", "there is no result store: no result can be read")


def judge_reach(app: Celery) -> Iterator[Finding]:
    """Check whether the store answers; loading errors are reported by `judge_store`."""
    with suppress(SettingsError):
        if (ask := _question(app, app.backend)) is not None:
            yield _judge_answer(_shown(app), ask)


def sqlite_file(app: Celery) -> Path | None:
    """Return the file of a SQLite result store, None for any other store."""
    place = urlsplit(_plain(str(app.conf.result_backend)))
    return Path(place.path[1:]) if place.scheme.partition("+")[0] == "sqlite" and len(place.path) > 1 else None


def _judge_file(file: Path) -> Finding:
    """Check who can share the file: only processes of the same host and user that see the same path."""
    try:
        owner = file.stat().st_uid
    except OSError:
        owner = os.geteuid()
    if owner != os.geteuid() and os.geteuid():
        text = (
            f"expected a file of this user ({os.geteuid()}), got {file} of user {owner}: run producers and "
            f"workers as one user, or set result_url to Redis or PostgreSQL"
        )
        return Finding(Level.ERROR, "results", text)
    if problem := _problem_of(file):
        cure = "correct it, or set state_dir or result_url to another place"
        return Finding(Level.ERROR, "results", f"{problem}; {cure}: until then no result is stored")
    text = f"SQLite in {file}, for processes of this host and of user {os.geteuid()} with this state_dir only"
    return Finding(Level.OK, "results", text)


def _problem_of(file: Path) -> str:
    """Return why no result can be stored in a file, an empty string if nothing is wrong; nothing is created."""
    if not is_writable_folder(file.parent):
        return f"expected a folder that this user may write, got {file.parent}"
    for part in (file, *(file.with_name(file.name + suffix) for suffix in ("-wal", "-shm"))):
        if part.exists() and not (part.is_file() and is_writable(part)):
            return f"expected a file that this user may write, got {part}"
    if not _is_sqlite(file):
        return f"expected a SQLite database, got {file}"
    return ""


def _is_sqlite(file: Path) -> bool:
    """Return whether a file is absent, empty, or begins as sqlite.org/fileformat.html says."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_SQLITE)) in {b"", _SQLITE}
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _question(app: Celery, backend: Any) -> Callable[[], object] | None:
    """Return a read-only query for the store; None for an unsupported kind of store."""
    if isinstance(backend, BaseKeyValueStoreBackend):
        return lambda: backend.get(backend.get_key_for_task(str(uuid4())))
    if hasattr(backend, "session_manager") and sqlite_file(app) is None:
        sessions, options = backend.session_manager, backend.engine_options
        return lambda: sessions.create_session(backend.url, **options)[0].connect().close()
    return None


def _judge_answer(where: str, ask: Callable[[], object]) -> Finding:
    """Query in a thread: some clients wait for a silent host until the operating system gives up."""
    answers: list[str] = []

    def run() -> None:
        try:
            ask()
            answers.append("")
        except Exception as error:  # noqa: BLE001 - each store has its own errors
            answers.append(" ".join(str(error).split()) or type(error).__name__)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    problem = answers[0] if answers else f"no answer in {ANSWER_SECONDS:g} s"
    if problem:
        cure = "start it, or correct result_url: until then no result is stored or read"
        return Finding(Level.ERROR, "results", f"{where}: expected an answer, got: {problem}; {cure}")
    return Finding(Level.OK, "results", f"{where} answers")


def judge_workers(app: Celery) -> Iterator[Finding]:
    """Compare the store with that of each worker that answers. If they differ, results stay PENDING forever."""
    try:
        answers = app.control.inspect(timeout=ASK_SECONDS).conf(with_defaults=True) or {}
    except Exception as error:  # noqa: BLE001 - missing permissions are reported elsewhere
        text = f"cannot find out which result store the workers use: {' '.join(str(error).split())}"
        yield Finding(Level.WARNING, "results", text)
        return
    ours, here = _shown(app), socket.gethostname()
    for node, conf in sorted(answers.items()):
        theirs = _masked(str(conf.get("result_backend")))
        if theirs != ours:
            text = (
                f"expected the result store of this process, {ours}, got {theirs}: its results cannot be read here"
            )
            yield Finding(Level.ERROR, f"worker {node}", text)
        elif sqlite_file(app) is not None and node.rpartition("@")[2] != here:
            text = f"expected a worker of this host ({here}), since results are in SQLite; set another result_url"
            yield Finding(Level.WARNING, f"worker {node}", text)


def _shown(app: Celery) -> str:
    return _masked(str(app.conf.result_backend))


def _plain(url: str) -> str:
    return url.rpartition(":DatabaseBackend+")[2].removeprefix("db+")


def _masked(url: str) -> str:
    """Return a URL without its credentials, whichever form Celery reports it in."""
    plain = _plain(url)
    scheme, mark, rest = plain.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
