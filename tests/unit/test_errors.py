"""Error messages, and that errors survive the way to another process."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from broker_app import BrokerApp, errors
from broker_app.errors import (
    BrokerAppError,
    BrokerError,
    FleetError,
    PublishError,
    PublishTimeout,
    RoutingError,
    SettingsError,
    TaskFailure,
    UnknownQueue,
)
from broker_app.queues import errors as queue_errors


def _subclasses(cls: type[BrokerAppError]) -> list[type[BrokerAppError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _subclasses(child))]


ALL = [cls for cls in _subclasses(BrokerAppError) if cls.__module__ in {errors.__name__, queue_errors.__name__}]
RAISED_IN_TASKS = [cls for cls in ALL if not issubclass(cls, FleetError)]
PUBLISH_ERRORS = [cls for cls in _subclasses(PublishError) if issubclass(cls, PublishError)]
FACTS = {"task": "shop.add", "task_id": "id-1", "queue": "lopri", "reason": "first line\n  second line"}


def _example(cls: type[BrokerAppError]) -> BrokerAppError:
    if issubclass(cls, PublishError | TaskFailure):
        return cls(**FACTS)
    if issubclass(cls, UnknownQueue):
        return cls("lopr", ["default", "lopri"])
    if issubclass(cls, SettingsError):
        return cls(["one: expected a,\n got b", "two: expected c, got d"])
    return cls("somewhere: expected this,\n got that; do so")


def _facts(error: BrokerAppError) -> dict[str, object]:
    return {name: value for name, value in vars(error).items() if not name.startswith("_")}


@pytest.mark.parametrize("reason", ["403 ACCESS_REFUSED - Login was refused", "530 NOT_ALLOWED - vhost shop"])
def test_a_refused_login_is_no_alarm(reason: str) -> None:
    """When the broker refuses a login or virtual host, the cure is the URL; otherwise alarms are named too."""
    assert "alarm" not in str(errors.BrokerUnreachable(**FACTS | {"reason": reason}))
    assert "alarm" in str(errors.BrokerUnreachable(**FACTS))


@pytest.mark.parametrize("cls", RAISED_IN_TASKS, ids=lambda cls: cls.__name__)
def test_an_error_is_one_line(cls: type[BrokerAppError]) -> None:
    """Whatever words the broker used, a log shows the complete message in one line, by str and by repr."""
    error = _example(cls)
    assert str(error)
    for text in (str(error), repr(error)):
        assert "\n" not in text
        assert "\\n" not in text


@pytest.mark.parametrize("cls", RAISED_IN_TASKS, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling(cls: type[BrokerAppError]) -> None:
    """A prefork worker hands it to its parent whole: class, text and facts."""
    error = _example(cls)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was pickled here
    assert type(back) is cls
    assert str(back) == str(error)
    assert _facts(back) == _facts(error)


@pytest.mark.parametrize("cls", RAISED_IN_TASKS, ids=lambda cls: cls.__name__)
def test_an_error_survives_the_result_store(cls: type[BrokerAppError]) -> None:
    """The caller of a task that failed with one gets the same error out of Celery's JSON."""
    error = _example(cls)
    backend = BrokerApp("tests", backend="cache+memory://", set_as_current=False).backend
    stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
    back = backend.exception_to_python(stored)
    assert type(back) is cls
    assert str(back) == str(error)


@pytest.mark.parametrize("cls", PUBLISH_ERRORS, ids=lambda cls: cls.__name__)
def test_a_publish_error_says_which_task_which_queue_why_and_what_now(cls: type[PublishError]) -> None:
    """One form for all of them, built from the facts that it carries."""
    error = cls(**FACTS)
    assert str(error) == (f"task shop.add [id-1] for queue 'lopri': first line second line; {cls.advice}")
    assert (error.task, error.task_id, error.queue, error.reason) == tuple(FACTS.values())


@pytest.mark.parametrize("cls", PUBLISH_ERRORS, ids=lambda cls: cls.__name__)
def test_code_for_plain_celery_catches_every_publish_error(cls: type[PublishError]) -> None:
    """`except kombu.exceptions.OperationalError` goes on working."""
    with pytest.raises(OperationalError):
        raise cls(**FACTS)


def test_only_a_time_out_may_have_been_taken() -> None:
    """Every other refusal means that no message with this id is on the broker."""
    assert [cls for cls in PUBLISH_ERRORS if cls.maybe_taken] == [PublishTimeout]


@pytest.mark.parametrize("cls", [cls for cls in ALL if issubclass(cls, PublishError) and not cls.maybe_taken])
def test_what_was_not_taken_is_said_to_be_unpublished(cls: type[PublishError]) -> None:
    """The advice agrees with `maybe_taken`."""
    assert cls.advice.startswith("it was not published")


def test_a_routing_error_is_a_value_error() -> None:
    """An impossible call is refused as Python refuses bad values; the broker is not blamed."""
    assert issubclass(RoutingError, ValueError)
    assert not issubclass(RoutingError, OperationalError)


def test_each_reply_code_has_one_class() -> None:
    """403, 404, 405 and 406 are distinguished, and only 405 says that a retry can help."""
    classes = [cls for cls in _subclasses(BrokerError) if issubclass(cls, BrokerError) and cls.code]
    assert sorted(cls.code for cls in classes) == [403, 404, 405, 406]
    assert [cls.code for cls in classes if cls.is_retryable] == [405]


def test_the_trees_in_the_docstrings_are_the_classes() -> None:
    """Each class is in the tree at the top of its file, at the depth of its inheritance."""
    for module in (errors, queue_errors):
        drawn = inspect.getdoc(module) or ""
        for cls in ALL:
            if cls.__module__ == module.__name__ and cls is not BrokerAppError:
                line = next((line for line in drawn.splitlines() if f"─ {cls.__name__} " in line), "")
                depth = [parent for parent in cls.__mro__ if parent in ALL].index(BrokerAppError)
                assert line.find("─ ") // 4 == depth - 1, (cls.__name__, line)


def test_every_error_can_be_imported_from_one_place() -> None:
    """`broker_app.errors.__all__` has all of them."""
    assert {cls.__name__ for cls in ALL} == set(errors.__all__)


def test_a_url_in_a_settings_error_shows_no_login() -> None:
    """Wherever a URL was written by mistake, its user and password are not in the text, nor in `problems`."""
    error = SettingsError(["prefix: got 'amqp://user:s3cr@t/x@host/v'", f"{Path('a')}: fine"])
    assert error.problems == ("prefix: got 'amqp://***@host/v'", "a: fine")
    assert "s3cr" not in str(error) + repr(error)
