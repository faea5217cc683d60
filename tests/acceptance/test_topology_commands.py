"""`broker-app topology plan`, `apply` and `migrate` as processes: what they print, and their exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from apps import delete, depth
from ledger import Ledger, ledger
from migrating import hurry

from broker_app.cli import exit_codes

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from brokers import Management

    from broker_app import BrokerApp

OLD = 'common_lanes = []\n[queues.default]\n[queues.lopri]\ntype = "classic"\ndead_letters = "discard"\n'
NEW = OLD + "priorities = true\n"


@pytest.fixture
def shop(tmp_path: Path, fresh_vhost_url: str, management: Management) -> Iterator[Ledger]:
    """Return a project on a virtual host of its own."""
    with ledger(tmp_path, fresh_vhost_url, OLD, BROKER_APP_MANAGEMENT_URL=management.url) as made:
        (tmp_path / "new.toml").write_text(NEW)
        yield made


@pytest.fixture
def app(shop: Ledger) -> BrokerApp:
    """Return the project's app in this process, with the old settings."""
    return shop.app()


def run(shop: Ledger, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``broker-app topology``."""
    return shop.run("broker-app", "-A", "shop", "topology", *words)


def test_plan_and_apply(shop: Ledger, app: BrokerApp) -> None:
    """`plan` exits with 6 while something differs, changes nothing, and with 0 after `apply`."""
    planned = run(shop, "plan")
    assert (planned.returncode, planned.stderr) == (exit_codes.DIFFERS, "")
    assert "missing  queue 'lopri'\n" in planned.stdout
    assert depth(app, "lopri") is None
    assert json.loads(run(shop, "plan", "--json").stdout)["is_complete"] is True

    applied = run(shop, "apply")
    assert (applied.returncode, applied.stderr) == (exit_codes.OK, "")
    assert "created  queue 'lopri'\n" in applied.stdout
    assert depth(app, "lopri") == 0

    again = run(shop, "plan")
    assert (again.returncode, again.stdout) == (exit_codes.OK, "nothing differs\n")
    assert json.loads(run(shop, "apply", "--json").stdout) == {
        "created": [],
        "changes": [],
        "is_complete": True,
        "why_incomplete": "",
    }


def test_lanes_to_come_are_no_difference(shop: Ledger, app: BrokerApp) -> None:
    """On a broker where only the common lanes are not there yet `plan` says so and exits with 0."""
    assert run(shop, "apply").returncode == exit_codes.OK
    shop.variables["BROKER_APP_COMMON_LANES"] = '["20s", "40s"]'
    planned = run(shop, "plan")
    assert planned.returncode == exit_codes.OK, planned.stdout
    assert planned.stdout.startswith("nothing differs\n2 delay lanes do not exist yet")
    assert "created  queue 'delay.40s'\n" in run(shop, "apply").stdout
    assert depth(app, "delay.40s") == 0


def test_other_arguments(shop: Ledger) -> None:
    """`plan` and `apply` name the queue, the difference and the cure, and `apply` leaves it as it is, with 6."""
    assert run(shop, "apply").returncode == exit_codes.OK
    shop.variables["BROKER_APP_CONFIG"] = "new.toml"
    line = "differs  queue 'lopri': x-max-priority is not set, wanted 9; run `broker-app topology migrate lopri`\n"
    for verb in ("plan", "apply"):
        done = run(shop, verb)
        assert done.returncode == exit_codes.DIFFERS
        assert line in done.stdout
    (change,) = json.loads(run(shop, "plan", "--json").stdout)["changes"]
    assert (change["kind"], change["what"], change["name"]) == ("differs", "queue", "lopri")


def test_without_the_management_api(shop: Ledger) -> None:
    """`plan` and `apply` work, and a line on stderr says what is unknown; `migrate` is refused with 4."""
    shop.variables["BROKER_APP_MANAGEMENT_URL"] = "http://127.0.0.1:1"
    assert run(shop, "apply").returncode == exit_codes.OK
    done = run(shop, "plan")
    assert (done.returncode, done.stdout) == (exit_codes.OK, "nothing differs\n")
    assert "bindings and other objects are unknown" in done.stderr
    assert json.loads(run(shop, "plan", "--json").stdout)["is_complete"] is False
    refused = run(shop, "migrate", "lopri")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (exit_codes.BROKER, 1)


def test_migrate(shop: Ledger, app: BrokerApp) -> None:
    """A dry run tells; the real one moves, with its stages on stderr; workers with old settings go on after it."""
    hurry(shop)
    first = [app.send_task("shop.note", queue="lopri").id for _ in range(3)]
    shop.variables["BROKER_APP_CONFIG"] = "new.toml"
    would = run(shop, "migrate", "lopri", "--dry-run")
    assert (would.returncode, would.stderr) == (exit_codes.OK, "")
    assert would.stdout == "would move lopri with 3 messages: x-max-priority is not set, wanted 9\n"
    assert json.loads(run(shop, "migrate", "lopri", "--dry-run", "--json").stdout)["queues"][0]["messages"] == 3

    done = run(shop, "migrate", "lopri")
    assert done.returncode == exit_codes.OK, done.stderr
    assert done.stdout == "moved lopri with 3 messages: x-max-priority is not set, wanted 9\n"
    assert "declaring lopri with its new arguments" in done.stderr.splitlines()
    assert run(shop, "migrate", "lopri").stdout == "queue 'lopri' already matches the settings\n"

    del shop.variables["BROKER_APP_CONFIG"]
    last = app.send_task("shop.note", queue="lopri")
    with shop.worker("-Q", "lopri", "-P", "solo") as worker:
        last.get(timeout=60)
        assert "the queues are used as they are" in worker.text()
    assert set(shop.runs()) == {*first, last.id}


def test_bad_words(shop: Ledger, app: BrokerApp) -> None:
    """`migrate` exits with 2 for an unknown queue or one that never migrates, and with 4 for an undeclared one."""
    unknown = run(shop, "migrate", "lopry")
    assert (unknown.returncode, "did you mean 'lopri'" in unknown.stderr) == (exit_codes.USAGE, True)
    assert run(shop, "migrate", "tasks.cancelled").returncode == exit_codes.USAGE
    assert run(shop, "migrate", "lopri").returncode == exit_codes.BROKER
    delete(app, "lopri")


@pytest.mark.parametrize("words", [("plan",), ("apply", "--json"), ("migrate", "lopri")], ids=" ".join)
def test_no_broker(shop: Ledger, words: tuple[str, ...]) -> None:
    """One line, without the password, and the exit code for it."""
    shop.url = "amqp://u:secret@127.0.0.1:1//"
    done = run(shop, *words)
    assert (done.returncode, done.stdout) == (exit_codes.BROKER, "")
    assert len(done.stderr.splitlines()) == 1
    assert "127.0.0.1:1" in done.stderr
    assert "secret" not in done.stderr
