"""Log files and log lines of workers and commands, and what commands print."""

from __future__ import annotations

import io
import logging
import stat
import sys
from typing import TYPE_CHECKING

import pytest
from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter
from rich.console import Console

from broker_app.app import BrokerApp
from broker_app.cli.logs import Logging, WholeRecords, log_to_stderr
from broker_app.cli.output import echo
from broker_app.cli.table import Table

if TYPE_CHECKING:
    from pathlib import Path

FORGED = "shop.add\r\n[2026-01-01 00:00:00,000: INFO/MainProcess] Task shop.pay succeeded\x1b[2J\x9b1m\u202e"


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logging:
    """Return the set-up of an app whose state folder is new."""
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "state").mkdir(mode=0o700)
    found: Logging = BrokerApp("shop", set_as_current=False).log
    return found


def logger_of(logs: Logging, file: Path | io.StringIO, formatter: type[logging.Formatter]) -> logging.Logger:
    """Return a logger of its own that is set up as a worker's is."""
    logger = logging.Logger("celery.worker.strategy")  # noqa: LOG001 - one that nobody else has
    place = file if isinstance(file, io.StringIO) else str(file)
    logs.setup_handlers(logger, place, "[%(levelname)s] %(message)s", colorize=False, formatter=formatter)
    return logger


@pytest.mark.parametrize("formatter", [ColorFormatter, TaskFormatter])
def test_a_message_forges_no_line(logs: Logging, formatter: type[logging.Formatter]) -> None:
    """Whatever name, id and exception a message brings, its record has one line that begins at the margin."""
    stream = io.StringIO()
    logger = logger_of(logs, stream, formatter)
    logger.warning("Task %(name)s[%(id)s] received", {"name": FORGED, "id": FORGED})
    try:
        raise ValueError(FORGED)  # noqa: TRY301 - it is only logged
    except ValueError:
        logger.exception("Task %s raised", "shop.add")
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        r"[WARNING] Task shop.add\r",
        "[ERROR] Task shop.add raised",
        "Traceback (most recent call last):",
        r"ValueError: shop.add\r",
    ]
    assert not set(stream.getvalue()) & set("\x1b\x9b\r\u202e")


def test_logs_in_the_state_folder_are_private(logs: Logging, tmp_path: Path) -> None:
    """A worker's log in the state folder is 0600, also after a rotation, and is not written through a link."""
    file = tmp_path / "state" / "lopri.log"
    file.touch(mode=0o644)  # as `celery worker --detach` does
    logger = logger_of(logs, file, ColorFormatter)
    logger.warning("one")
    file.rename(tmp_path / "state" / "lopri.log.1")
    logger.warning("two")
    assert file.read_text() == "[WARNING] two\n"
    assert {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "state").iterdir()} == {0o600}
    (tmp_path / "state" / "linked.log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        logger_of(logs, tmp_path / "state" / "linked.log", ColorFormatter)


def test_other_logs_are_celerys(logs: Logging, tmp_path: Path) -> None:
    """A log elsewhere, as /dev/stdout, is opened as Celery opens it."""
    (tmp_path / "stdout").symlink_to(tmp_path / "target")
    logger_of(logs, tmp_path / "stdout", ColorFormatter).warning("one")
    assert (tmp_path / "target").read_text() == "[WARNING] one\n"


def test_lines_of_a_command_forge_nothing() -> None:
    """A command that logs to stderr formats records as a worker does."""
    record = logging.LogRecord("shop", logging.INFO, "", 0, "task %s", (FORGED,), None)
    assert WholeRecords("%(message)s").format(record).splitlines()[1].startswith("  [2026")


def test_a_command_tells_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that logs to stderr logs from info on, without pika's connection steps."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log_to_stderr("%(levelname)s %(message)s")
    logging.getLogger("pika.adapters.utils.connection_workflow").info("Pika version 1.4.4 connecting to …")
    logging.getLogger("broker_app.metrics").info("it answers again")
    assert stream.getvalue() == "INFO it answers again\n"


def test_a_terminal_obeys_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines and tables show control characters as escapes and square brackets as they are."""
    echo(f"not there: {FORGED}")
    table = Table("task")
    table.add_row(f"[red]{FORGED}")
    Console(file=sys.stdout, width=200).print(table)
    printed = capsys.readouterr().out
    assert not set(printed) & set("\x1b\x9b\r\u202e")
    assert r"[red]shop.add\r\n" in printed
