"""Settings that would have another effect than they say, or cannot work at all, are refused in one line."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from celery import chord

from broker_app import BrokerApp
from broker_app.cli import exit_codes
from broker_app.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

CELERY = Path(sys.executable).with_name("celery")
OURS = "amqp://guest:guest@127.0.0.1:1//"
OTHER = "amqp://user:s3cret@elsewhere//"
HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"redis", "psycopg"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., BrokerApp]:
    """Return a function that makes an app with an unreachable broker."""

    def make(settings: str = "", url: str = OURS) -> BrokerApp:
        file = tmp_path / "broker.toml"
        file.write_text(f'broker_url = "{url}"\nstate_dir = "{tmp_path}"\n{settings}')
        return BrokerApp("shop", config=file, set_as_current=False)

    return make


# Celery's own variables


@pytest.mark.parametrize(
    ("variable", "cure"),
    [
        ("CELERY_BROKER_URL", "BROKER_APP_BROKER_URL"),
        ("CELERY_BROKER_READ_URL", "BROKER_APP_BROKER_URL"),
        ("CELERY_BROKER_WRITE_URL", "BROKER_APP_BROKER_URL"),
        ("CELERY_RESULT_BACKEND", "BROKER_APP_RESULT_URL"),
    ],
)
def test_a_variable_of_celerys_that_would_win_is_refused(
    make: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch, variable: str, cure: str
) -> None:
    """Each access to the configuration says which variable, and what to set instead, without a password."""
    monkeypatch.setenv(variable, OTHER)
    app = make()
    for use in (partial(getattr, app, "backend"), partial(app.send_task, "shop.add")) * 2:
        with pytest.raises(SettingsError) as caught:
            use()
        assert (variable in str(caught.value), cure in str(caught.value)) == (True, True)
        assert "s3cret" not in str(caught.value)
    monkeypatch.delenv(variable)
    assert app.conf.broker_write_url == OURS


@pytest.mark.parametrize(
    ("variable", "value", "settings"),
    [
        ("CELERY_BROKER_URL", OURS, ""),
        ("CELERY_BROKER_WRITE_URL", OURS, ""),
        ("CELERY_RESULT_BACKEND", "redis://127.0.0.1/3", 'result_url = "redis://127.0.0.1/3"'),
        ("CELERY_RESULT_BACKEND", "db+sqlite:////tmp/x.db", 'result_url = "db+sqlite:////tmp/x.db"'),
        ("CELERY_BROKER_URL", "", ""),
    ],
)
def test_a_variable_that_says_the_same_is_fine(
    make: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, settings: str
) -> None:
    """Flower and others read Celery's variables: they may be set along with ours."""
    monkeypatch.setenv(variable, value)
    assert make(settings).conf.broker_url == OURS


def test_a_variable_that_the_users_configuration_reads_too_is_fine(
    make: Callable[..., BrokerApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Django project that sets CELERY_BROKER_URL from the variable of that name goes on doing so."""
    monkeypatch.setenv("CELERY_BROKER_URL", OTHER)
    app = make()
    app.config_from_object({"CELERY_BROKER_URL": OTHER}, namespace="CELERY")
    assert app.conf.broker_write_url == OTHER


# Other transports


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("memory://", "memory"), ("redis://127.0.0.1", "redis"), ("sqs://", "sqs"), ("amqp://a;memory://", "memory")],
)
def test_other_transports_are_refused(make: Callable[..., BrokerApp], url: str, scheme: str) -> None:
    """A task for an unsupported broker is refused at the call, by the scheme."""
    app = make()
    app.conf.broker_url = url
    with pytest.raises(SettingsError, match=f"expected amqp:// or amqps://, got {scheme}://"):
        app.send_task("shop.add")


def test_eager_tasks_need_no_broker(make: Callable[..., BrokerApp]) -> None:
    """With `task_always_eager` and a broker in memory tasks, retries and chords run in the caller."""
    app = make()
    app.conf.update(broker_url="memory://", task_always_eager=True)

    @app.task(name="shop.add", bind=True, max_retries=1, shared=False)
    def add(self: object, x: int, y: int) -> int:
        if not self.request.retries:  # type: ignore[attr-defined]
            raise self.retry(countdown=60)  # type: ignore[attr-defined]
        return x + y

    @app.task(name="shop.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert add.apply_async((2, 2), queue="none", priority=99).get() == 4
    assert chord([add.s(1, 1), add.s(2, 2)], app=app)(total.s()).get() == 6
    with pytest.warns(match="task_always_eager"), pytest.raises(SettingsError, match="memory://"):
        app.send_task("shop.add")


# Packages that are not there


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("redis://127.0.0.1/0", "broker-app[redis]"),
        ("db+postgresql+psycopg://u:s3cret@127.0.0.1/d", "broker-app[postgresql]"),
        ("db+nonsense://u:s3cret@127.0.0.1/d", "nonsense"),
        ("nonsense://u:s3cret@127.0.0.1/d", "nonsense"),
    ],
)
@pytest.mark.timeout(120)
def test_a_missing_package_is_named(tmp_path: Path, url: str, package: str) -> None:
    """`send` is refused in one line, before anything is published, with what to install."""
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    done = run(tmp_path, "broker-app", "send", "broker_app.tasks.add", "2", "2", BROKER_APP_RESULT_URL=url)
    assert done.returncode == exit_codes.SETTINGS
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1), done.stderr
    assert package in done.stderr
    assert "s3cret" not in done.stderr


# Celery's command line


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BROKER_APP_PREFETCH", "1", "BROKER_APP_PREFETCH is not a setting"),
        ("CELERY_BROKER_URL", OTHER, "CELERY_BROKER_URL"),
    ],
)
@pytest.mark.timeout(120)
def test_celerys_commands_show_one_line_too(tmp_path: Path, variable: str, value: str, words: str) -> None:
    """`celery -A … worker` with settings that are wrong ends with the fault's line, and no traceback."""
    done = run(tmp_path, "celery", "-A", "broker_app", "worker", **{variable: value})
    assert done.returncode == exit_codes.SETTINGS
    [line] = [line for line in done.stderr.splitlines() if line.startswith("broker-app: ")]
    assert words in line
    assert "Traceback" not in done.stderr


def run(folder: Path, command: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in a folder that Python imports from."""
    environment = {"PATH": str(CELERY.parent), "HOME": str(folder), "PYTHONPATH": str(folder), **variables}
    path = CELERY.with_name(command)
    return subprocess.run(
        [path, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
