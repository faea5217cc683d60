"""Three users, each with no more rights than `docs/security.md` names, run the whole when it is declared ahead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from apps import USER_PASSWORD, depth
from brokers import vhost_of
from ledger import Ledger, ledger
from waiting import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from brokers import Management

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
SETTINGS = 'common_lanes = ["1s", "5s"]\n[queues.default]\n[queues.lopri]\n'
OLD = SETTINGS + 'type = "classic"\n'
RIGHTS = ("configure", "write", "read")


def patterns(role: str) -> dict[str, str]:
    """Return the rights of a role as the page names them."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(rf"set_permissions [^\n]* {role} \\\n((?:  .*\n){{3}})", text)
    assert block, role
    found = [line.strip().removesuffix("\\").strip().strip("'") for line in block[1].splitlines()]
    return dict(zip(RIGHTS, found, strict=True))


@pytest.fixture
def urls(management: Management, fresh_vhost_url: str) -> Iterator[dict[str, str]]:
    """Make the three users and return their URLs."""
    place, vhost, made = urlsplit(fresh_vhost_url), vhost_of(fresh_vhost_url), {}
    for role in ("deploy", "producer", "worker"):
        name = f"{role}-{vhost}"
        management.put(
            f"users/{name}", {"password": USER_PASSWORD, "tags": "management" if role == "deploy" else ""}
        )
        management.put(f"permissions/{quote(vhost, safe='')}/{name}", patterns(role))
        login = f"{name}:{USER_PASSWORD}@{place.hostname}:{place.port}"
        made[role] = urlunsplit(place._replace(netloc=login))
    yield made
    for role in made:
        management.delete(f"users/{role}-{vhost}")


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
        wait_until(lambda: depth(deploying, "lopri.dead") == 1, 60, f"{unknown} to be a dead letter")
        assert worker.process.poll() is None
        assert "the queues are used as they are" in worker.text()
        assert "ACCESS_REFUSED" not in worker.text().replace(
            next(line for line in worker.text().splitlines() if "used as they are" in line), ""
        )


@pytest.mark.version
def test_nobody_has_more(shop: Ledger, urls: dict[str, str]) -> None:
    """Producer and worker declare nothing of the topology; a producer reads nothing, a worker no dead letters."""
    assert topology(shop, "apply").returncode == 0
    for role in ("producer", "worker"):
        shop.url = urls[role]
        refused = topology(shop, "declare")
        assert refused.returncode == 4
        assert "403" in refused.stderr
        assert USER_PASSWORD not in refused.stderr
    for role, queue in (("producer", "default"), ("worker", "default.dead")):
        shop.url = urls[role]
        with (
            shop.app().connection_for_write() as connection,
            pytest.raises(connection.channel_errors, match="403"),
        ):
            connection.default_channel.basic_get(queue)
