"""Calls: what a JSON line may say, how a file of them is read, and which calls the app's tasks refuse."""

from __future__ import annotations

import functools
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from broker_app.cli import calls
from broker_app.cli.calls import MAX_LINE_BYTES, CallRequest, check_call, parse_call, read_calls
from broker_app.errors import CallError
from broker_app.queues.delay import MAX_DELAY_SECONDS
from broker_app.queues.spec import MAX_ID_BYTES

SPECIMEN = CallRequest(
    task="shop.tasks.pack",
    args=[1, "zwei", None],
    kwargs={"fragile": True},
    queue="lopri",
    countdown=2.5,
    priority=9,
    expires=60,
    id="order-17",
)
RECORD = {
    "task": "shop.tasks.pack",
    "args": [1, "zwei", None],
    "kwargs": {"fragile": True},
    "queue": "lopri",
    "countdown": 2.5,
    "priority": 9,
    "expires": 60,
    "id": "order-17",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def read(content: bytes) -> list[tuple[int, CallRequest | str]]:
    """Return each line's number, and its call or the words of its fault."""
    return [
        (line, call if isinstance(call, CallRequest) else str(call))
        for line, call in read_calls(io.BytesIO(content))
    ]


@pytest.fixture(scope="module")
def app() -> Celery:
    """Return an app with tasks of several shapes."""
    app = Celery("shop", set_as_current=False)

    @app.task(name="shop.tasks.pack")
    def pack(item: Any, *, fragile: bool = False) -> None:
        """Take one item."""

    @app.task(name="shop.tasks.ship", bind=True)
    def ship(self: Any, address: str) -> None:
        """Take an address."""

    @app.task(name="shop.tasks.anything", typing=False)
    def anything() -> None:
        """Say that its arguments are not to be checked."""

    @functools.wraps(pack)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        """Take whatever comes and hand it on."""

    app.task(wrapped, name="shop.tasks.wrapped")
    return app


# The keys of a record


def test_record() -> None:
    """Every key of a record is a field of the call."""
    assert parse_call(RECORD) == SPECIMEN


def test_options() -> None:
    """A call hands on what was said of it, by Celery's names, and nothing that was not said."""
    assert SPECIMEN.options() == {
        "queue": "lopri",
        "countdown": 2.5,
        "priority": 9,
        "expires": 60,
        "task_id": "order-17",
    }
    assert CallRequest("shop.tasks.pack").options() == {}


def test_null_is_absent() -> None:
    """A key with null is as good as no key: programs write records so."""
    assert parse_call(dict.fromkeys(RECORD) | {"task": "a"}) == CallRequest("a")


def test_eta_has_its_zone() -> None:
    """An eta is an ISO 8601 moment, with a zone or without."""
    assert parse_call({"task": "a", "eta": "2030-01-31T09:00:00Z"}).eta == datetime(2030, 1, 31, 9, tzinfo=UTC)
    assert parse_call({"task": "a", "eta": "2030-01-31T09:00:00"}).eta == datetime(2030, 1, 31, 9)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([1], "expected an object such as"),
        ("add", "got a string"),
        (3.5, "got a number"),
        (None, "got null"),
        ({}, "task: expected a task's name, got none"),
        ({"taks": "a"}, "unknown key 'taks' (did you mean 'task'?); known: task, args,"),
        ({"task": ""}, 'task: expected a task\'s name, got ""'),
        ({"task": "\ud800"}, "task: expected a task's name"),
        ({"task": "a", "args": {"x": 1}}, 'args: expected a list, got {"x": 1}'),
        ({"task": "a", "args": "xy"}, 'args: expected a list, got "xy"'),
        ({"task": "a", "kwargs": [1]}, "kwargs: expected an object, got [1]"),
        ({"task": "a", "queue": 1}, "queue: expected a queue's name, got 1"),
        ({"task": "a", "countdown": "10"}, f"countdown: expected a number of seconds, 0..{MAX_DELAY_SECONDS}"),
        ({"task": "a", "countdown": True}, "got true"),
        ({"task": "a", "countdown": -1}, "got -1"),
        ({"task": "a", "countdown": float("inf")}, "got Infinity"),
        ({"task": "a", "countdown": 10**400}, "countdown: expected"),
        ({"task": "a", "eta": "tomorrow"}, 'an ISO 8601 moment such as 2030-01-31T09:00:00+00:00, got "tomorrow"'),
        ({"task": "a", "eta": 5}, "eta: expected"),
        ({"task": "a", "eta": "2030-01-31", "countdown": 1}, "expected a countdown or an eta, got both"),
        ({"task": "a", "priority": 5.0}, "priority: expected an integer 0..9"),
        ({"task": "a", "priority": True}, "priority: expected an integer 0..9"),
        ({"task": "a", "expires": 0}, "expires: expected a number of seconds above 0"),
        ({"task": "a", "id": "x" * (MAX_ID_BYTES + 1)}, f"id: expected a string of 1..{MAX_ID_BYTES} bytes"),
        ({"task": "a", "id": "ü" * MAX_ID_BYTES}, "id: expected"),
    ],
)
def test_bad_records_are_refused(record: object, words: str) -> None:
    """An invalid call is refused with the key, the expected and the actual value, in one short line."""
    with pytest.raises(CallError) as caught:
        parse_call(record)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


def test_an_id_at_the_bound_is_taken() -> None:
    """The longest id is one that Celery's result tables can hold."""
    assert parse_call({"task": "a", "id": "x" * MAX_ID_BYTES}).id == "x" * MAX_ID_BYTES


# Reading a file


@given(args=st.lists(json_values), kwargs=st.dictionaries(st.text(), json_values))
def test_arguments_arrive_as_they_were_written(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Any JSON value is an argument, and none is changed on its way through a line."""
    line = json.dumps({"task": "a", "args": args, "kwargs": kwargs}).encode()
    assert read(line) == [(1, CallRequest("a", args, kwargs))]


def test_blank_lines_are_passed_over_and_counted() -> None:
    """A fault is named by the line that an editor shows, blank lines and Windows line ends or not."""
    assert read(b'\r\n{"task": "a"}\r\n  \n\n{"task": "b"}') == [(2, CallRequest("a")), (5, CallRequest("b"))]


def test_byte_order_mark() -> None:
    """A file that starts with a byte order mark is read as if it did not."""
    assert read(b'\xef\xbb\xbf{"task": "a"}\n') == [(1, CallRequest("a"))]


def test_reading_goes_on_after_a_bad_line() -> None:
    """An invalid line is reported and the next ones are read; the caller decides when to stop."""
    found = read(b'{"task": "a"}\nnot json\n\xff\xfe\n{"task": "b"}\n')
    assert found == [
        (1, CallRequest("a")),
        (2, "expected a JSON object, got 'not json' (Expecting value at 1)"),
        (3, "expected UTF-8, got byte 0xff at 1"),
        (4, CallRequest("b")),
    ]


@pytest.mark.parametrize(
    "line",
    [b'{"task": "a", "args": [NaN]}', b"[" * 100_000, b'{"task": "a", "args": [' + b"9" * 5_000 + b"]}", b"\x00"],
)
def test_hostile_lines_are_bad_lines(line: bytes) -> None:
    """Constants that JSON does not have, endless nesting and endless numbers are bad lines, not crashes."""
    [(number, fault)] = read(line)
    assert number == 1
    assert isinstance(fault, str)
    assert "expected a JSON object" in fault


def test_long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line up to the bound is read; a longer one is reported without being stored, and the next one is read."""
    assert MAX_LINE_BYTES == 16 * 1024 * 1024
    monkeypatch.setattr(calls, "MAX_LINE_BYTES", 20)
    found = read(b'{"task": "%s"}\n{"task": "%s"}\n%s\n{"task": "b"}' % (b"a" * 8, b"a" * 9, b"x" * 100))
    assert [(line, isinstance(call, CallRequest)) for line, call in found] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
    ]
    assert found[1][1] == "expected a line of at most 20 bytes, got a longer one"


def test_lines_are_read_one_at_a_time() -> None:
    """A call is handed out before the next line is read, so a pipe is served as it comes."""
    stream = io.BytesIO(b'{"task": "a"}\n{"task": "b"}\n')
    found = read_calls(stream)
    assert next(found) == (1, CallRequest("a"))
    assert stream.tell() == len(b'{"task": "a"}\n')


# Refusals by the app's tasks


@pytest.mark.parametrize(
    "call",
    [
        CallRequest("shop.tasks.pack", [1]),
        CallRequest("shop.tasks.pack", kwargs={"item": 1, "fragile": True}),
        CallRequest("shop.tasks.ship", ["here"]),
        CallRequest("shop.tasks.anything", [1, 2], {"x": 3}),
        CallRequest("shop.tasks.wrapped", [1, 2, 3]),
    ],
)
def test_right_arguments_pass(app: Celery, call: CallRequest) -> None:
    """A call that its task's function takes passes; so does any call of a task that wants no check."""
    check_call(call, app.tasks)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            CallRequest("shop.tasks.pack"),
            "expected shop.tasks.pack(item, *, fragile=False), got 0 positional arguments",
        ),
        (CallRequest("shop.tasks.pack", [1, 2]), "got 2 positional arguments"),
        (CallRequest("shop.tasks.pack", [1], {"size": 2}), "got 1 positional argument and 'size'"),
        (CallRequest("shop.tasks.ship", [1, 2]), "expected shop.tasks.ship(address), got 2 positional arguments"),
    ],
)
def test_wrong_arguments_are_refused(app: Celery, call: CallRequest, words: str) -> None:
    """A call that its task's function does not take is refused before it is published, with the right form."""
    with pytest.raises(CallError) as caught:
        check_call(call, app.tasks)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["shop.tasks.pak", "pack", "tasks.pack", "shop.pack"])
def test_an_unknown_task_is_told_its_nearest(app: Celery, name: str) -> None:
    """A mistyped name, or the last word alone, is answered with the task that was meant."""
    with pytest.raises(CallError, match=r"did you mean 'shop\.tasks\.pack'\?"):
        check_call(CallRequest(name), app.tasks)


def test_an_unknown_task_is_told_the_known_ones(app: Celery) -> None:
    """A name that resembles none is answered with the app's tasks, without Celery's own."""
    with pytest.raises(
        CallError, match=r"\(.*shop\.tasks\.anything, shop\.tasks\.pack, shop\.tasks\.ship, .*\)"
    ) as caught:
        check_call(CallRequest("x"), app.tasks)
    assert "celery." not in str(caught.value)


def test_tasks_that_only_the_workers_know(app: Celery) -> None:
    """An unknown task passes if it is said that workers know it; a known one is checked still."""
    check_call(CallRequest("elsewhere.task"), app.tasks, allow_unregistered=True)
    with pytest.raises(CallError):
        check_call(CallRequest("shop.tasks.pack"), app.tasks, allow_unregistered=True)
