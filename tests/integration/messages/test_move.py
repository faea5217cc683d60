"""Messages moved, discarded and purged: those that are meant, as they are, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import depth, take
from deaths import DEAD, bury, carried, death_headers, declare, ids_in, ids_of, publish, task_headers

from broker_app import messages
from broker_app.messages import CommandOptions, MessageFilter

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp
    from broker_app.messages.source import MessageSource


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app whose queues are declared."""
    made = make_app()
    declare(made)
    return made


@pytest.mark.version
def test_moved_messages_are_as_they_were(app: BrokerApp) -> None:
    """A moved message keeps its dead-letter headers, its retries and its time."""
    headers = task_headers(identity="one") | death_headers()
    publish(app, DEAD, [headers, task_headers("other.run", "two") | death_headers()])
    outcome = messages.move(app, DEAD, "lopri.dead", CommandOptions(MessageFilter(tasks=("shop.*",))))
    assert (outcome.done, outcome.read) == (1, 2)
    (message,) = take(app, "lopri.dead")
    assert carried(message) == headers
    assert ids_of(app, DEAD) == ["two"]


@pytest.mark.version
def test_discarded_messages_are_gone(app: BrokerApp) -> None:
    """Those that the filters name, and no others."""
    publish(app, DEAD, [task_headers(identity=one) | death_headers() for one in "abcd"])
    outcome = messages.discard(app, DEAD, CommandOptions(MessageFilter(ids=frozenset("bd"))))
    assert (outcome.done, outcome.found) == (2, {"b", "d"})
    assert ids_of(app, DEAD) == ["a", "c"]


def test_purge_asks_first(app: BrokerApp) -> None:
    """It asks with the number, and removes all or nothing."""
    bury(app, 3)
    asked = []

    def refuse(place: MessageSource, count: int) -> bool:
        asked.append((place.name, count))
        return False

    assert messages.purge(app, DEAD, refuse) is None
    assert asked == [(DEAD, 3)]
    assert depth(app, DEAD) == 3
    assert messages.purge(app, DEAD, lambda *_: True) == 3
    assert depth(app, DEAD) == 0


def test_a_stop_in_between(app: BrokerApp) -> None:
    """Whoever asks for a stop gets one soon, with all that was sent settled and the rest in its order."""
    ids = bury(app, 1_000)
    asked = iter([False, True, True])
    outcome = messages.replay(app, DEAD, CommandOptions(is_stopped=lambda: next(asked)))
    assert 0 < outcome.done < 1_000
    assert ids_in(take(app, "default")) == ids[: outcome.done]
    assert ids_in(take(app, DEAD)) == ids[outcome.done :]
