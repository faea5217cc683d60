"""The trace that a call belongs to goes with its message: W3C Trace Context, if OpenTelemetry is installed.

Nothing is recorded here, and no span is made: with OpenTelemetry set up, the task runs in the caller's context,
and its spans are children of the caller's. With `opentelemetry-instrumentation-celery` they are children of the
task's own span, whose parent is that of the publishing. Without OpenTelemetry, none of this costs anything.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from celery import signals

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from celery.app.task import Context

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


def enter(request: Context) -> None:
    """Let a task that begins to run, in this thread or greenlet, do so within the context that its message brings.

    It ends with the task, after what follows it was published: by a signal that is connected once a message brings
    a context. Two signals for each task are a twentieth of all that a worker does for an empty one.

    If a span is current, an instrumentation has begun it for the task, from the same headers: it stays current.
    """
    if request.get(FIELDS[0]) is None or not is_available():
        return
    from opentelemetry import context, trace  # noqa: PLC0415 - an extra

    if trace.get_current_span().get_span_context().is_valid:
        return
    signals.task_postrun.connect(_leave, weak=False, dispatch_uid=f"{__name__}.leave")  # more than once is once
    carrier = {name: value for name in FIELDS if isinstance(value := request.get(name), str)}
    setattr(request, _TOKEN, context.attach(_propagator().extract(carrier)))


@cache
def _propagator() -> Any:
    from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 - an extra, and slow to import

    return tracecontext.TraceContextTextMapPropagator()


def _leave(task: Any, **_: Any) -> None:
    from opentelemetry import context  # noqa: PLC0415

    token = task.request.get(_TOKEN)
    if token is not None:
        setattr(task.request, _TOKEN, None)
        context.detach(token)
