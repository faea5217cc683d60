"""The private virtual host of a tuning run: other queues are untouched, and nothing of it is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth
from brokers import vhost_of

from broker_app.broker.access import connect
from broker_app.broker.declare import declare_topology, wanted_topology
from broker_app.errors import InvalidQueueName
from broker_app.tuning.sandbox import private_place

if TYPE_CHECKING:
    from apps import AppMaker
    from brokers import Management

    from broker_app import BrokerApp
    from broker_app.tuning.sandbox import Sandbox

TASK = "broker_app.tasks.add"


def names(management: Management, url: str) -> set[str]:
    """Return all queues and exchanges of a virtual host but the broker's own."""
    found = [
        item["name"] for kind in ("queues", "exchanges") for item in management.get(f"{kind}/{vhost_of(url)}")
    ]
    return {name for name in found if name and not name.startswith("amq.")}


def declare(place: Sandbox) -> None:
    """Declare what a place has, as its worker does."""
    with connect(place.app) as connection:
        declare_topology(connection, wanted_topology(place.app.settings))


def test_a_place_is_a_twin_that_goes_away(app: BrokerApp, management: Management, fresh_vhost_url: str) -> None:
    """Tasks published there reach the twin queue and not the user's; afterwards all is as before."""
    app.send_task(TASK, (1, 1), queue="lopri")
    before = names(management, fresh_vhost_url)

    with private_place(app, "lopri", lambda: None) as place:
        declare(place)
        place.app.send_task(TASK, (2, 2), queue="lopri")
        place.app.send_task(TASK, (2, 2), queue="default", countdown=77)  # a lane that was not declared
        prefix = place.app.settings.prefix
        assert depth(app, f"{prefix}lopri") == 1
        assert {name for name in names(management, fresh_vhost_url) if not name.startswith(prefix)} == before

    assert depth(app, "lopri") == 1
    assert names(management, fresh_vhost_url) == before
    assert not list((app.settings.state_dir / "tuning").iterdir())


def test_what_a_killed_run_left_is_removed_and_a_running_one_is_left_alone(
    app: BrokerApp, management: Management, fresh_vhost_url: str
) -> None:
    """A sandbox whose lock is free is removed by the next run; that of a running one stays."""
    with private_place(app, "lopri", lambda: None) as dead, private_place(app, "lopri", lambda: None) as living:
        declare(dead)
        declare(living)
        facts = dead.folder / "place.json"
        copy = facts.read_text()
        facts.unlink()  # the lock is on the old file; the new one of this name has no lock, as after a kill
        facts.write_text(copy)

        with private_place(app, "lopri", lambda: None):
            left = names(management, fresh_vhost_url)

        assert not any(name.startswith(dead.app.settings.prefix) for name in left)
        assert any(name.startswith(living.app.settings.prefix) for name in left)
        assert living.folder.exists()
        assert not dead.folder.exists()


def test_a_clean_up_is_announced(app: BrokerApp) -> None:
    """A user without the right to pause gets the error before the run begins."""
    told: list[bool] = []

    with pytest.raises(ZeroDivisionError), private_place(app, "lopri", lambda: told.append(True)):
        raise ZeroDivisionError
    assert told == [True]


def test_a_name_that_would_be_too_long_is_refused(make_app: AppMaker) -> None:
    """A queue whose name leaves no room for the place's prefix is refused before anything is made."""
    app = make_app(f"[queues.default]\n[queues.{'q' * 228}]\n")

    with pytest.raises(InvalidQueueName), private_place(app, "q" * 228, lambda: None):
        pass
    assert not (app.settings.state_dir / "tuning").exists()
