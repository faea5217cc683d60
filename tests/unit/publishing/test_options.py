"""Options of calls: misspelt names and values of a wrong type."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import amqp
import celery
import pytest
from celery.app.amqp import AMQP
from celery.app.task import extract_exec_options
from kombu.messaging import Producer

from broker_app import BrokerApp
from broker_app.errors import CallError
from broker_app.publishing.encoding import check_serializer
from broker_app.publishing.options import _CELERYS, check_options

if TYPE_CHECKING:
    from collections.abc import Callable

TASK = "shop.add"
_SENDER = celery.Celery(set_as_current=False).amqp.send_task_message
SENDERS = [celery.Celery.send_task, AMQP.as_task_v2, _SENDER, Producer.publish]


def _run() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("written", "meant"),
    [("qeue", "queue"), ("count_down", "countdown"), ("prioirty", "priority"), ("expire", "expires")],
)
def test_a_misspelt_option_is_refused(written: str, meant: str) -> None:
    """The error names the task, the option and the likely one, also for a retry."""
    for more in ({}, {"retries": 3}):
        with pytest.raises(CallError, match=rf"{TASK}.*'{written}'.*'{meant}'"):
            check_options(TASK, {written: 1} | more, {})


STAMP = {"qeue": 1, "stamped_headers": ["qeue"]}


@pytest.mark.parametrize("options", [{"once": {}}, {"meta": 1}, {"tenant": 1}, STAMP])
def test_an_option_of_ones_own_is_not_refused(options: dict[str, Any]) -> None:
    """Options for routers and extensions, and stamps, pass: only what resembles Celery's is a mistake."""
    check_options(TASK, options, {})


def test_a_task_with_its_own_apply_async_has_its_own_options() -> None:
    """Its class may read any name, so none is refused."""

    class Own(celery.Task):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            """Publish."""
            return super().apply_async(*args, **options)

    app = BrokerApp("options", set_as_current=False)
    app.task(name="own", base=Own)(_run)
    app.task(name="plain")(_run)
    check_options("own", {"queues": 1}, app.tasks)
    check_options("own", {"queues": 1, "task_type": app.tasks["own"]}, {})
    with pytest.raises(CallError, match="queues"):
        check_options("plain", {"queues": 1}, app.tasks)


def test_a_retry_repeats_what_another_client_sent() -> None:
    """Values that a worker has accepted once are not a reason to lose the task."""
    check_options(TASK, {"retries": 1, "group_index": "x", "headers": None, "argsrepr": 4}, {})


@pytest.mark.parametrize(
    "option", [{"delivery_mode": 3}, {"delivery_mode": "durable"}, {"expiration": "soon"}, {"result_cls": 4}]
)
def test_an_odd_value_is_refused_before_anything_is_sent(option: dict[str, Any]) -> None:
    """The call names task, option and value in one line, although no message would carry the value."""
    app = BrokerApp("odd", set_as_current=False)
    ((name, value),) = option.items()
    with pytest.raises(CallError, match=rf"{TASK}: {name}: expected .*, got {value!r}"):
        app.send_task(TASK, **option)


@pytest.mark.parametrize("option", [{"delivery_mode": 1}, {"delivery_mode": "persistent"}, {"expiration": 2.5}])
def test_a_value_that_celery_takes_is_accepted(option: dict[str, Any]) -> None:
    """Code written for Celery may ask for a delivery mode or an expiration."""
    check_options(TASK, option, {})


@pytest.mark.parametrize("function", SENDERS)
def test_every_option_of_celery_is_known(function: Callable[..., Any]) -> None:
    """A new option of Celery or kombu that is missing here would be refused if it resembles an old one."""
    parameters = inspect.signature(function).parameters.values()
    names = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
    passed_by_celery = {"self", "name", "message", "body", "create_sent_event", "callbacks", "errbacks"}
    assert names - passed_by_celery <= _CELERYS


def test_every_property_and_task_option_is_known() -> None:
    """AMQP's basic properties, and what Celery takes from a task's definition."""
    assert {name for name, _ in amqp.Message.PROPERTIES} - {"application_headers"} <= _CELERYS
    options = extract_exec_options(celery.Task())
    assert options.keys() <= _CELERYS


@pytest.mark.parametrize(
    ("serializer", "accept", "fact"),
    [("pickle", ["json"], "json"), ("pickle", [], "none"), ("pickel", ["json"], "did you mean 'pickle'")],
)
def test_a_serializer_that_no_worker_accepts_is_refused(serializer: str, accept: list[str], fact: str) -> None:
    """By name or by content type, as `accept_content` has it."""
    check_serializer(TASK, "json", None)
    check_serializer(TASK, "pickle", ["application/x-python-serialize"])
    with pytest.raises(CallError, match=f"{TASK}.*{fact}"):
        check_serializer(TASK, serializer, accept)
