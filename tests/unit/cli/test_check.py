"""`broker-app check` without a broker."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from broker_app import BrokerApp
from broker_app.cli import exit_codes
from broker_app.cli.check import check
from broker_app.cli.command import CliContext

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

CLOSED = "amqp://guest:s3cret@127.0.0.1:1//"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str, config: Path | None = None, include: tuple[str, ...] = ()) -> Result:
    """Run the command with an app of its own."""
    app = BrokerApp("checked", config=config, include=include, set_as_current=False)
    context = CliContext(app=lambda: app, app_name="checked", is_verbose=False)
    return CliRunner().invoke(check, args, obj=context)


def test_defaults() -> None:
    """Without a file it says so, shows the queues, and is content."""
    result = run()
    assert result.exit_code == exit_codes.OK
    assert "settings file: none, built-in defaults" in result.stdout
    row = r"^lopri +quorum +none +1 +5 +900 s +lopri\.dead +1 x threads -c 32$"
    assert re.search(row, result.stdout, re.MULTILINE)
    assert result.stderr == ""


def test_where_the_settings_come_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the variables are named, the variables' values are not shown."""
    file = folder / "shop.toml"
    file.write_text('[queues.default]\ntype = "classic"\npriorities = true\ndead_letters = "discard"\n')
    monkeypatch.setenv("BROKER_APP_BROKER_URL", CLOSED)
    result = run(config=file)
    assert f"settings file: {file}" in result.stdout
    assert "environment: BROKER_APP_BROKER_URL\n" in result.stdout
    assert re.search(r"^default +classic +0\.\.9 .* discarded", result.stdout, re.MULTILINE)
    assert "lopri" not in result.stdout
    assert "s3cret" not in result.output


def test_a_long_queue_name_is_shown_whole(folder: Path) -> None:
    """A name is never cut, however long."""
    file = folder / "broker.toml"
    file.write_text(f'default_queue = "{"q" * 200}"\n[queues.{"q" * 200}]\n')
    assert f"{'q' * 200}  quorum" in run(config=file).stdout


@pytest.fixture
def faulty(folder: Path) -> Path:
    """Return a file with three faults."""
    file = folder / "broker.toml"
    file.write_text('prefx = "x"\ndefault_queue = "defualt"\n[queues.default]\nprefetch = "many"\n')
    return file


def test_every_fault_in_one_run(faulty: Path) -> None:
    """Each fault is a line on stderr, all in one run, and the exit code is that of the settings."""
    result = run(config=faulty)
    assert result.exit_code == exit_codes.SETTINGS
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"broker-app: {faulty}: ") for line in lines)


def test_faults_for_a_script(faulty: Path) -> None:
    """--json gives the faults of the settings as findings too."""
    result = run("--json", config=faulty)
    assert result.exit_code == exit_codes.SETTINGS
    found = json.loads(result.stdout)
    assert {finding["level"] for finding in found} == {"error"}
    assert [finding["where"] for finding in found] == [str(faulty)] * 3


def test_a_named_file_must_be_there(folder: Path) -> None:
    """A file that was named and is missing is one line and the exit code of the settings."""
    result = run(config=folder / "missing.toml")
    assert result.exit_code == exit_codes.SETTINGS
    assert len(result.stderr.splitlines()) == 1


def test_a_state_folder_that_cannot_be_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder below a file is a fault of the settings."""
    (folder / "file").touch()
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(folder / "file" / "state"))
    result = run()
    assert result.exit_code == exit_codes.SETTINGS
    assert "error    state_dir: " in result.stdout


def test_a_variable_of_celery_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """CELERY_BROKER_URL with another broker is one finding, for people and for scripts."""
    monkeypatch.setenv("CELERY_BROKER_URL", CLOSED)
    shown, listed = run(), run("--json")

    assert shown.exit_code == listed.exit_code == exit_codes.SETTINGS, shown.output
    assert shown.output.count("CELERY_BROKER_URL") == 1
    (finding,) = [one for one in json.loads(listed.stdout) if one["level"] == "error"]
    assert "CELERY_BROKER_URL" in finding["where"]


def test_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is not there is an error that hides the password; the settings are judged all the same."""
    monkeypatch.setenv("BROKER_APP_BROKER_URL", CLOSED)
    result = run("--broker")
    assert result.exit_code == exit_codes.BROKER
    assert "ok       settings: " in result.stdout
    assert "error    broker: " in result.stdout
    assert "s3cret" not in result.output


def test_findings_for_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """--json prints one list of findings and nothing else."""
    monkeypatch.setenv("BROKER_APP_BROKER_URL", CLOSED)
    result = run("--broker", "--json")
    assert [(finding["level"], finding["where"]) for finding in json.loads(result.stdout)] == [
        ("ok", "settings"),
        ("ok", "results"),
        ("error", "broker"),
    ]


def test_a_task_module_that_cannot_be_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error that names the fault, for people and for scripts; workers would not start with it."""
    (folder / "checked_tasks.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(folder)
    result = run(include=("checked_tasks",))
    assert result.exit_code == exit_codes.USAGE
    assert re.search(r"^error .*no_such_library", result.stdout, re.MULTILINE)
    (finding,) = [
        one for one in json.loads(run("--json", include=("checked_tasks",)).stdout) if one["level"] == "error"
    ]
    assert "no_such_library" in finding["text"]
