"""Trace propagation: passes W3C Trace Context in message headers if OpenTelemetry is installed.

This module creates no spans. With OpenTelemetry configured, a task runs in the caller's context, and its spans
are children of the caller's span. With `opentelemetry-instrumentation-celery` they are children of the task's own
span, whose parent is the publishing span. Without OpenTelemetry there is no overhead.
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
"""Header names from w3.org/TR/trace-context."""

_TOKEN = "broker_app_trace_token"  # noqa: S105 - request attribute with the token that detaches its context


@cache
def is_available() -> bool:
    """Return whether OpenTelemetry is installed."""
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.trace") is not None


def inject(headers: MutableMapping[str, Any]) -> None:
    """Add the current context to a message's headers unless the caller has set one.

    A retry keeps the context from the headers of its previous message, and so stays in the same trace.
    """
    if is_available() and FIELDS[0] not in headers:
        _propagator().inject(headers)


def enter(request: Context) -> None:
    """Attach the context from a task's message to the current thread or greenlet, before the task runs.

    The context is detached after the task has run and its callbacks are published. The signal for that is
    connected once a message carries a context: two signals per task are a twentieth of a worker's cost for an
    empty task.

    If a span is already current, an instrumentation started it for this task from the same headers; it is kept.
    """
    if request.get(FIELDS[0]) is None or not is_available():
        return
    from opentelemetry import context, trace  # noqa: PLC0415 - an extra

    if trace.get_current_span().get_span_context().is_valid:
        return
    signals.task_postrun.connect(
        _leave, weak=False, dispatch_uid=f"{__name__}.leave"
    )  # connecting again has no effect
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
