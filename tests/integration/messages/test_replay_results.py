"""The results of tasks that are replayed: waited for again, or a reason to leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import TWO_QUEUES, depth, take
from celery import states
from deaths import DEAD, bury, declare, ids_in, ids_of, replay
from waiting import wait_until

from broker_app import messages
from broker_app.errors import SelectionError
from broker_app.messages import CommandOptions

if TYPE_CHECKING:
    from apps import AppMaker

    from broker_app import BrokerApp


@pytest.fixture
def app(make_app: AppMaker) -> BrokerApp:
    """Return an app whose queues are declared."""
    made = make_app()
    declare(made)
    return made


def test_the_results_are_waited_for_again(app: BrokerApp) -> None:
    """A failure becomes PENDING again; a success stays, and a missing result is not invented."""
    ids = bury(app, 3)
    app.backend.store_result(ids[0], ValueError("bad"), states.FAILURE)
    app.backend.store_result(ids[1], 3, states.SUCCESS)
    assert replay(app).done == 3
    assert [app.AsyncResult(one).state for one in ids] == [states.PENDING, states.SUCCESS, states.PENDING]
    assert app.AsyncResult(ids[0]).result is None
    assert not app.backend.task_result_exists(ids[2])


def test_what_has_succeeded_can_be_skipped(app: BrokerApp) -> None:
    """It stays in the dead letters, and is counted apart."""
    ids = bury(app, 3)
    app.backend.store_result(ids[1], 3, states.SUCCESS)
    outcome = messages.replay(app, DEAD, CommandOptions(), skip_succeeded=True)
    assert (outcome.done, outcome.succeeded) == (2, 1)
    assert ids_of(app, DEAD) == [ids[1]]


def test_results_of_any_backend(make_app: AppMaker) -> None:
    """One that knows no statement for many results at once does the same, one by one."""
    app = make_app(result_backend="cache+memory://")
    declare(app)
    ids = bury(app, 3)
    app.backend.store_result(ids[0], ValueError("bad"), states.FAILURE)
    app.backend.store_result(ids[1], 3, states.SUCCESS)
    outcome = messages.replay(app, DEAD, CommandOptions(), skip_succeeded=True)
    assert (outcome.done, outcome.succeeded) == (2, 1)
    assert app.AsyncResult(ids[0]).state == states.PENDING


def test_no_results_are_kept(make_app: AppMaker) -> None:
    """A replay works without a result store; only what it is needed for is refused."""
    app = make_app(result_backend="disabled://")
    declare(app)
    bury(app, 1)
    with pytest.raises(SelectionError, match="--skip-succeeded: expected a result store"):
        messages.replay(app, DEAD, CommandOptions(), skip_succeeded=True)
    assert replay(app).done == 1


def test_a_result_store_that_is_away(make_app: AppMaker, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks are sent with one warning, unless succeeded tasks are to be excluded."""
    app = make_app('result_url = "db+sqlite:////proc/none/results.sqlite3"\n' + TWO_QUEUES)
    declare(app)
    ids = bury(app, 2)
    with pytest.raises(SelectionError, match="--skip-succeeded: the result store does not answer"):
        messages.replay(app, DEAD, CommandOptions(), skip_succeeded=True)
    wait_until(lambda: depth(app, DEAD) == 2, 30, "both to be back")
    assert replay(app).done == 2
    assert ids_in(take(app, "default")) == ids
    assert caplog.text.count("the results stay as they are") == 1
