"""`broker_url_file`: producers and workers use a password that is changed in it for the next connection."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from celery.exceptions import TimeoutError as NotDone
from waiting import wait_until
from workers import client, running_worker

from broker_app import BrokerApp
from broker_app.errors import BrokerUnreachable

if TYPE_CHECKING:
    from pathlib import Path

    from apps import MakeUser
    from brokers import Management

NEW_PASSWORD = "an0ther"
WAIT_SECONDS = 60
REFUSED = "refused the connection"


@pytest.fixture
def url_file(tmp_path: Path, make_user: MakeUser) -> Path:
    """A file with the URL of a user of its own."""
    file = tmp_path / "broker_url"
    file.write_text(make_user(".*", ".*", ".*") + "\n", encoding="utf-8")
    return file


def change_password(management: Management, file: Path) -> str:
    """Give the user another password, end its connections, and return the URL that the file should have."""
    url = file.read_text(encoding="utf-8").strip()
    place = urlsplit(url)
    management.put(f"users/{place.username}", {"password": NEW_PASSWORD, "tags": ""})
    management.close_connections_of(url)
    return url.replace(f":{place.password}@", f":{NEW_PASSWORD}@")


@pytest.mark.parametrize("hosts", [1, 2])
def test_producers_use_the_new_password(
    tmp_path: Path, url_file: Path, management: Management, monkeypatch: pytest.MonkeyPatch, hosts: int
) -> None:
    """A refused login is an error of the call; once the file has the new password, calls go through again."""
    monkeypatch.setenv("BROKER_APP_BROKER_URL_FILE", str(url_file))
    monkeypatch.setenv("BROKER_APP_STATE_DIR", str(tmp_path / "state"))
    url_file.write_text(";".join([url_file.read_text(encoding="utf-8").strip()] * hosts), encoding="utf-8")
    app = BrokerApp("tests", set_as_current=False)
    app.send_task("shop.add")
    new = change_password(management, url_file)
    for _ in range(3):
        with pytest.raises(BrokerUnreachable, match="ACCESS_REFUSED"):
            app.send_task("shop.add")
    url_file.write_text("", encoding="utf-8")  # as it may be seen while it is written
    with pytest.raises(BrokerUnreachable, match="ACCESS_REFUSED"):
        app.send_task("shop.add")
    url_file.write_text(new, encoding="utf-8")
    app.send_task("shop.add")
    assert app.connection_for_write().password == NEW_PASSWORD
    app.pool.force_close_all()


@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
def test_workers_use_the_new_password(tmp_path: Path, url_file: Path, management: Management, pool: str) -> None:
    """A worker that is locked out asks a few times a minute, says so once, and works again with the new file."""
    url, settings = url_file.read_text(encoding="utf-8").strip(), {"BROKER_APP_BROKER_URL_FILE": str(url_file)}
    with running_worker(tmp_path, url, "-Q", "lopri", "-P", pool, "-c", "1", **settings) as worker:
        new = change_password(management, url_file)
        wait_until(lambda: REFUSED in worker.log.read_text(), WAIT_SECONDS, "the refusal in the log")
        before = len(worker.log.read_text().splitlines())
        result = client(tmp_path, new).send_task("broker_app.tasks.add", (2, 2), queue="lopri")
        with pytest.raises(NotDone):
            result.get(timeout=5)
        assert len(worker.log.read_text().splitlines()) - before <= 3
        assert worker.log.read_text().count(REFUSED) == 1
        assert NEW_PASSWORD not in worker.log.read_text()
        url_file.write_text(new, encoding="utf-8")
        assert result.get(timeout=WAIT_SECONDS) == 4
