"""The form of a task message: what would hold a slot, or run and die too, is refused when it comes."""

from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import InvalidTaskError

from broker_app.publishing.validation import MAX_RETRIES, are_limits, check_form, following
from broker_app.worker.message_form import HIDING

HEADERS = {"id": "1", "task": "t"}
LINK = {"task": "t", "args": [1], "kwargs": {}, "options": {}}


@pytest.mark.parametrize(
    "payload",
    [
        [[], {}, {}],
        ((), {}, None),
        [[1], {"a": 1}, {"callbacks": [LINK], "errbacks": None, "chain": [LINK, LINK], "chord": LINK}],
    ],
    ids=str,
)
def test_what_celery_writes_has_the_form(payload: Any) -> None:
    """Arguments, keyword arguments, and the tasks that follow."""
    check_form(HEADERS, payload)
    check_form(HEADERS | {"retries": 3, "group": "g", "root_id": None, "chord": LINK}, payload)


@pytest.mark.parametrize(
    "payload",
    [
        *("abc", 5, None, {}, {"a": 1, "b": 2, "c": 3}, [], [[]], [[], {}], [[], {}, {}, {}]),
        *([[], {}, 5], [[], None, {}], [[], "x", {}], [None, {}, {}], ["ab", {}, {}], [[], {}, []]),
        *([[], {}, {"callbacks": 5}], [[], {}, {"errbacks": ["t"]}], [[], {}, {"chain": [{}]}]),
        *([[], {}, {"chord": []}], [[], {}, {"callbacks": [LINK | {"args": "x"}]}]),
    ],
    ids=str,
)
def test_a_body_of_another_shape(payload: Any) -> None:
    """A body of another shape is refused, with the expected shape."""
    with pytest.raises(InvalidTaskError, match="expected"):
        check_form(HEADERS, payload)


@pytest.mark.parametrize(
    "header",
    [
        *({"id": 5}, {"id": ""}, {"id": {}}, {"retries": "2"}, {"retries": -1}, {"retries": MAX_RETRIES + 1}),
        *({"group": []}, {"root_id": 1}, {"shadow": {}}, {"callbacks": 5}, {"chain": "t"}, {"chord": 1}),
    ],
    ids=str,
)
def test_a_header_of_another_kind(header: dict[str, Any]) -> None:
    """Headers are read where the body has nothing: they are checked like it."""
    with pytest.raises(InvalidTaskError, match=next(iter(header))):
        check_form(HEADERS | header, [[], {}, {}])


@pytest.mark.parametrize("limits", [[None, None], (1, 0.5), [0, None]])
def test_time_limits(limits: Any) -> None:
    """Valid time limits are two numbers of seconds, or none."""
    assert are_limits(limits)


@pytest.mark.parametrize(
    "limits", [[1], "ab", None, [float("nan"), 1], [-1, None], [True, None], [1e300, None], [2**63, 1]], ids=str
)
def test_time_limits_that_cannot_be_waited_for(limits: Any) -> None:
    """NaN makes a watcher turn for ever, and a lock cannot wait for 300 years."""
    assert not are_limits(limits)


def test_what_follows_a_task_that_is_given_up() -> None:
    """Its errbacks are called if they are tasks: a text among them would publish a task of that name."""
    assert following({"errbacks": [LINK], "callbacks": ["t"], "chord": 5}) == {"errbacks": [LINK]}
    assert following("abc") == {}


def test_headers_that_would_hide_methods() -> None:
    """Header names that would hide methods of Celery's request are known."""
    assert {"get", "update", "clear", "_protected"} <= HIDING
