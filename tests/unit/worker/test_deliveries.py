"""Deliveries: each message is settled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_app.worker.deliveries import Deliveries

if TYPE_CHECKING:
    from collections.abc import Callable


class Message:
    """A delivered message, as far as `Deliveries` looks at it."""

    def __init__(self) -> None:
        self.headers = {"id": "one", "task": "shop.add"}


class Request:
    """A request, as far as `Deliveries` looks at it."""

    def __init__(self) -> None:
        self.message, self.id = Message(), "one"
        self._on_ack: Any = None
        self.on_reject: Any = None
        self.time_start = None


class Acknowledger:
    """Writes down what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[Any] = []

    def acknowledge(self, messages: list[Any]) -> None:
        """Write it down."""
        self.acknowledged += messages


def _call_now(_: str, callback: Callable[[], object]) -> None:
    callback()


def test_a_task_that_ends_twice_is_settled_once() -> None:
    """Celery may report the end of a terminated task in two threads; two acks would close the channel."""
    acknowledger, request = Acknowledger(), Request()
    settled: list[Any] = []
    deliveries = Deliveries(
        lambda _: None,
        acknowledger,  # type: ignore[arg-type] # all that it uses
        _call_now,
        on_settled=settled.append,
    )
    deliveries.add(request)  # type: ignore[arg-type] # all that it looks at
    for _ in range(2):
        request._on_ack(None, ())
    deliveries.settle()
    assert acknowledger.acknowledged == [request.message]
    assert settled == [request]
    assert [deliveries.take_ended(), deliveries.take_ended()] == [(1, 0.0), (0, 0.0)]
    assert not deliveries.all()
