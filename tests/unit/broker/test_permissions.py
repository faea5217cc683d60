"""The least rights of four users, made from the settings."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from documents import ROOT

from broker_app.app import BrokerApp
from broker_app.broker.permissions import NOTHING, Role, roles, vhost_of
from broker_app.cli import main
from broker_app.queues.delay import parse_lane
from broker_app.queues.topology import lane_topology, work_topology

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOTTED = 'prefix = "shop.eu."\n[queues."reports.daily"]\n[queues.default]\n'


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], BrokerApp]:
    """Return what makes an app of some settings."""

    def made(settings: str) -> BrokerApp:
        file = tmp_path / "broker.toml"
        file.write_text(f'broker_url = "amqp://a:b@h:5672/my%20host"\n{settings}')
        return BrokerApp("shop", config=file, set_as_current=False)

    return made


def of(app: BrokerApp) -> dict[str, Role]:
    """Return the roles by their names."""
    return {role.name: role for role in roles(app)}


def test_page_shows_what_is_printed() -> None:
    """docs/operations/security.md shows the lines that the command prints for the default settings."""
    done = CliRunner().invoke(main, ["topology", "permissions"])
    assert done.exit_code == 0, done.output
    page = (ROOT / "docs" / "operations" / "security.md").read_text(encoding="utf-8")
    assert f"```sh\n{done.stdout}```" in page


def test_deploy_may_configure_all_that_is_declared(make: Callable[[str], BrokerApp]) -> None:
    """Every exchange and queue of the settings, dead letters and lanes among them, is the deploying user's."""
    app = make(DOTTED)
    specs = list(app.settings.specs())
    lanes = lane_topology([parse_lane("300ms"), parse_lane("2h")], app.settings.prefix)
    work = work_topology(specs, app.settings.prefix)
    queues = (*work.queues, *lanes.queues)
    names = [exchange.name for exchange in work.exchanges] + [queue.name for queue in queues]
    rights = of(app)["deploy"]
    for pattern in (rights.configure, rights.write, rights.read):
        assert [name for name in names if not re.search(pattern, name)] == []


@pytest.mark.parametrize("role", ["deploy", "producer", "worker", "monitor"])
@pytest.mark.parametrize(
    "name", ["tasks", "delay.5s", "shop.us.tasks", "shopXeu.tasks", "shop.eu.reportsXdaily", "x"]
)
def test_nothing_of_others(role: str, name: str, make: Callable[[str], BrokerApp]) -> None:
    """No pattern fits a name without the prefix, with another, or with a character in place of a dot."""
    rights = of(make(DOTTED))[role]
    assert not any(re.search(pattern, name) for pattern in (rights.configure, rights.write, rights.read))


def test_worker_declares_its_mailboxes(make: Callable[[str], BrokerApp]) -> None:
    """The queues of Celery's remote control and events match the worker's patterns, and no work queue does."""
    app = make(DOTTED)
    mailbox = app.control.mailbox
    names = [
        mailbox.exchange.name,
        mailbox.reply_exchange.name,
        mailbox.get_queue("default@host.example").name,
        mailbox.get_reply_queue().name,
        app.conf.event_exchange,
        f"{app.conf.event_queue_prefix}.1234",
    ]
    rights = of(app)["worker"]
    for pattern in (rights.configure, rights.write, rights.read):
        assert [name for name in names if not re.search(pattern, name)] == []
    declared = work_topology(app.settings.specs(), app.settings.prefix)
    assert not any(re.search(rights.configure, exchange.name) for exchange in declared.exchanges)
    assert not any(re.search(rights.configure, queue.name) for queue in declared.queues)


def test_commands_are_safe_for_a_shell(make: Callable[[str], BrokerApp]) -> None:
    """A virtual host with a blank, and every pattern, arrives as one word."""
    app = make(DOTTED)
    for role in roles(app):
        command, _ = role.commands("a user", vhost_of(app))
        expected = ["-p", "my host", "a user", role.configure, role.write, role.read]
        assert shlex.split(command.replace("\\\n", "")) == ["rabbitmqctl", "set_permissions", *expected]


def test_json_is_for_scripts() -> None:
    """A script reads users, tags and patterns; one role can be asked for."""
    words = ["topology", "permissions", "monitor", "--user-prefix", "shop-", "--json"]
    told: dict[str, Any] = json.loads(CliRunner().invoke(main, words).stdout)
    [monitor] = told["users"]
    assert told["vhost"] == "/"
    assert (monitor["user"], monitor["name"], monitor["tag"]) == ("shop-monitor", "monitor", "monitoring")
    assert (monitor["configure"], monitor["write"]) == (NOTHING, NOTHING)
    assert monitor["read"] == r"^(tasks\.paused)$"
