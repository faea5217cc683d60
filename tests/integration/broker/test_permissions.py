"""Four users with no more rights than `topology permissions` prints run the whole when it is declared ahead."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from apps import USER_PASSWORD, depth
from brokers import Management, vhost_of
from celery import signals
from ending import END_SECONDS
from ledger import SCRIPTS, Ledger, ledger
from migrating import hurry
from waiting import wait_until

from broker_app.broker import permission_probe
from broker_app.broker.ask import REFUSED, answer
from broker_app.monitoring.broker_reader import BrokerReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import amqp

SETTINGS = 'prefix = "shop."\ncommon_lanes = ["1s", "5s"]\n[queues.default]\n[queues.lopri]\n'
OLD = SETTINGS + 'type = "classic"\n'
PUBLISHES_TO = {
    "producer": {"shop.tasks", "shop.delay"},
    "worker": {"shop.tasks", "shop.delay", "shop.tasks.dead"},
    "monitor": set[str](),
}
ROLES = ("deploy", "producer", "worker", "monitor")


def grant(management: Management, url: str, user_prefix: str) -> None:
    """Make the users that ``topology permissions`` names, and give them what its lines say."""
    environment = os.environ | {"BROKER_APP_BROKER_URL": url, "BROKER_APP_PREFIX": "shop."}
    for role in ROLES:
        management.put(f"users/{user_prefix}{role}", {"password": USER_PASSWORD, "tags": ""})
    command = [str(SCRIPTS / "broker-app"), "topology", "permissions", "--user-prefix", user_prefix]
    printed = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=END_SECONDS
    )
    for line in printed.stdout.replace("\\\n", "").splitlines():
        match shlex.split(line, comments=True):
            case ["rabbitmqctl", "set_permissions", "-p", vhost, user, configure, write, read]:
                granted = {"configure": configure, "write": write, "read": read}
                management.put(f"permissions/{quote(vhost, safe='')}/{user}", granted)
            case ["rabbitmqctl", "set_user_tags", user, *tags]:
                management.put(f"users/{user}", {"password": USER_PASSWORD, "tags": ",".join(tags)})
            case words:
                assert not words, line


@pytest.fixture
def urls(management: Management, fresh_vhost_url: str) -> Iterator[dict[str, str]]:
    """Make the four users and return their URLs."""
    place, user_prefix = urlsplit(fresh_vhost_url), f"{vhost_of(fresh_vhost_url)}-"
    grant(management, fresh_vhost_url, user_prefix)
    logins = {role: f"{user_prefix}{role}:{USER_PASSWORD}@{place.hostname}:{place.port}" for role in ROLES}
    yield {role: urlunsplit(place._replace(netloc=login)) for role, login in logins.items()}
    for role in ROLES:
        management.delete(f"users/{user_prefix}{role}")


@pytest.fixture
def shop(tmp_path: Path, urls: dict[str, str], management: Management) -> Iterator[Ledger]:
    """Return a project whose processes are the deploying user's, unless a test says otherwise."""
    with ledger(tmp_path, urls["deploy"], SETTINGS, BROKER_APP_MANAGEMENT_URL=management.url) as made:
        (tmp_path / "old.toml").write_text(OLD)
        yield made


def topology(shop: Ledger, *words: str, settings: str = "broker.toml") -> subprocess.CompletedProcess[str]:
    """Run ``broker-app topology``."""
    shop.variables["BROKER_APP_CONFIG"] = settings
    return shop.run("broker-app", "-A", "shop", "topology", *words)


@pytest.mark.version
@pytest.mark.timeout(240)
def test_three_roles(shop: Ledger, urls: dict[str, str]) -> None:
    """The first declares and moves queues, the second publishes now and later, the third works and retries."""
    hurry(shop)
    deploying = shop.app()
    assert topology(shop, "apply", settings="old.toml").returncode == 0
    moved = topology(shop, "migrate", "lopri")
    assert moved.returncode == 0, moved
    planned = topology(shop, "plan")
    assert (planned.returncode, planned.stdout, planned.stderr) == (0, "nothing differs\n", "")

    shop.url = urls["producer"]
    producing = shop.app()
    ids = [producing.send_task("shop.note", queue=queue).id for queue in ("default", "lopri")]
    ids.append(producing.send_task("shop.note", queue="lopri", countdown=1).id)
    again = producing.send_task("shop.again", args=(1, 1), queue="lopri").id
    unknown = producing.send_task("shop.unknown", queue="lopri").id

    shop.url = urls["worker"]
    with shop.worker("-Q", "default,lopri", "-P", "threads", "-c", "2") as worker:
        wait_until(lambda: set(ids) <= shop.runs().keys(), 60, "the tasks to run")
        wait_until(lambda: len(shop.runs("again").get(again, ())) == 2, 60, "the retry, which waits in a lane")
        wait_until(lambda: depth(deploying, "shop.lopri.dead") == 1, 60, f"{unknown} to be a dead letter")
        assert worker.process.poll() is None
        assert "the queues are used as they are" in worker.text()
        assert "ACCESS_REFUSED" not in worker.text().replace(
            next(line for line in worker.text().splitlines() if "used as they are" in line), ""
        )


@pytest.mark.version
def test_who_may_not_declare_lanes_uses_the_common_ones(shop: Ledger, urls: dict[str, str]) -> None:
    """A call that takes a moment waits in the lane that was asked for: the one for the rest cannot be declared."""
    assert topology(shop, "apply").returncode == 0
    shop.url = urls["producer"]
    app = shop.app()

    def take_a_moment(**_: object) -> None:
        time.sleep(0.2)

    signals.before_task_publish.connect(take_a_moment)
    try:
        app.send_task("shop.note", queue="lopri", countdown=1)
        bulk = [app.signature("shop.note").set(queue="lopri", countdown=1) for _ in range(2)]
        assert [outcome.error for outcome in app.publish_many(bulk)] == [None, None]
    finally:
        signals.before_task_publish.disconnect(take_a_moment)

    shop.url = urls["deploy"]
    wait_until(lambda: depth(shop.app(), "shop.lopri") == 3, 30, "the tasks")


@pytest.mark.version
def test_nobody_has_more(shop: Ledger, urls: dict[str, str], management: Management) -> None:
    """Only who deploys declares and deletes; a producer reads nothing, a worker no dead letters."""
    assert topology(shop, "apply").returncode == 0
    for role in ("producer", "worker", "monitor"):
        shop.url = urls[role]
        refused = topology(shop, "declare")
        assert refused.returncode == 4
        assert "403" in refused.stderr
        assert USER_PASSWORD not in refused.stderr
        with shop.app().connection_for_write() as kombu:
            connection = kombu.connection
            assert is_refused(connection, lambda channel: channel.queue_delete("shop.lopri")), role
            assert is_refused(connection, lambda channel: channel.queue_declare("shop.more", exclusive=True)), role
            assert is_refused(connection, lambda channel: channel.queue_purge("shop.delay.5s")), role
            assert is_refused(connection, lambda channel: channel.basic_get("shop.lopri.dead")), role
            assert permission_probe.may_consume(connection, "shop.lopri") is (role == "worker"), role
            for exchange in ("shop.tasks", "shop.delay", "shop.tasks.dead", "shop.tasks.due", "", "amq.topic"):
                may_publish = exchange in PUBLISHES_TO[role]
                assert permission_probe.may_publish(connection, exchange, "shop.lopri") is may_publish, (
                    role,
                    exchange,
                )

    numbers = BrokerReader(shop.app(f"management_url = {json.dumps(management.url)}")).read()
    assert numbers.has_management
    assert numbers.queues["lopri"].ready == 0
    assert numbers.paused == frozenset()
    monitor, vhost = Management.of(urls["monitor"], management.url), quote(vhost_of(urls["monitor"]), safe="")
    for path, body in ((f"queues/{vhost}/more", {"durable": True}), ("users/more", {"password": "", "tags": ""})):
        with pytest.raises(HTTPError, match=r"40[13]"):
            monitor.put(path, body)


def is_refused(connection: amqp.Connection, request: Callable[[amqp.Channel], object]) -> bool:
    """Return whether the broker answers 403 to a request."""
    code, _ = answer(connection, request)
    return code == REFUSED
