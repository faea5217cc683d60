"""The trace that a call belongs to goes with its message: W3C Trace Context, if OpenTelemetry is installed.

Nothing is recorded here, and no span is made: whoever has OpenTelemetry set up finds the caller's context in the
task, and spans that it makes there are children of the caller's. Without it, none of this costs anything.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

FIELDS = ("traceparent", "tracestate")
"""The headers, by the names of w3.org/TR/trace-context."""

_TOKEN = "broker_app_trace_token"  # noqa: S105 - where a request keeps what ends its context


@cache
def is_available() -> bool:
    """Return whether OpenTelemetry is installed."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


def inject(headers: MutableMapping[str, Any]) -> None:
    """Put the current context into a message's headers; what the caller put there itself stays.

    The headers of a retry have it from the message before: it is the same trace.
    """
    if is_available() and FIELDS[0] not in headers:
        _propagator().inject(headers)


def install() -> None:
    """Let the tasks of a pool's processes run within the context that their messages bring."""
    if is_available():
        signals.worker_process_init.connect(_listen, weak=False, dispatch_uid=f"{__name__}.listen")


def expect(headers: Mapping[str, Any]) -> None:
    """Let tasks of this process run within their context, from the first message on that brings one.

    Not before: two signals for each task are a twentieth of all that a worker does for an empty one.
    """
    if FIELDS[0] in headers and is_available():
        _listen()


def _listen(**_: Any) -> None:
    """More than once is once."""
    signals.task_prerun.connect(_attach, weak=False, dispatch_uid=f"{__name__}.attach")
    signals.task_postrun.connect(_detach, weak=False, dispatch_uid=f"{__name__}.detach")


@cache
def _propagator() -> Any:
    from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 - an extra, and slow to import

    return tracecontext.TraceContextTextMapPropagator()


def _attach(task: Any, **_: Any) -> None:
    from opentelemetry import context  # noqa: PLC0415

    carrier = {name: value for name in FIELDS if isinstance(value := task.request.get(name), str)}
    if carrier:
        setattr(task.request, _TOKEN, context.attach(_propagator().extract(carrier)))


def _detach(task: Any, **_: Any) -> None:
    from opentelemetry import context  # noqa: PLC0415

    token = task.request.get(_TOKEN)
    if token is not None:
        setattr(task.request, _TOKEN, None)
        context.detach(token)
