"""The caller's trace goes with its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import take
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from workers import client, running_worker

from broker_app import publish_many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import AppMaker

SECONDS = 60.0
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"


@pytest.fixture
def span() -> Iterator[None]:
    """Make the test run within a trace, as a web request of an instrumented program does."""
    state = TraceState([("vendor", "value")])
    current = SpanContext(TRACE, SPAN, is_remote=False, trace_flags=TraceFlags(1), trace_state=state)
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(current)))
    yield
    context.detach(token)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["threads", "prefork", "gevent"])
@pytest.mark.usefixtures("span")
def test_a_task_runs_within_its_callers_trace(tmp_path: Path, fresh_vhost_url: str, pool: str) -> None:
    """At once, delayed, among many, and behind another, a task finds its caller's trace; no later one does."""
    app = client(tmp_path, fresh_vhost_url)
    with running_worker(tmp_path, fresh_vhost_url, "-P", pool, "-c", "1", "-Q", "default"):
        at_once = app.send_task("workload.traceparent")
        later = app.send_task("workload.traceparent", countdown=1.5)
        (one,) = publish_many([app.signature("workload.traceparent")], app=app)
        assert at_once.get(timeout=SECONDS) == PARENT
        assert later.get(timeout=SECONDS) == PARENT
        assert app.AsyncResult(one.task_id).get(timeout=SECONDS) == PARENT
        first, then = app.signature("workload.traceparent"), app.signature("workload.traceparent", immutable=True)
        assert (first | then).apply_async().get(timeout=SECONDS) == PARENT
        token = context.attach(context.Context())
        outside = app.send_task("workload.traceparent")
        context.detach(token)
        assert outside.get(timeout=SECONDS) is None
    app.close()


@pytest.mark.usefixtures("span")
def test_the_headers_are_those_of_the_standard(make_app: AppMaker) -> None:
    """A message has `traceparent` and `tracestate`; what the caller set itself stays."""
    app = make_app()
    app.send_task("a")
    app.send_task("a", headers={"traceparent": "the caller's own"})
    first, second = take(app, "default")
    assert (first.headers["traceparent"], first.headers["tracestate"]) == (PARENT, "vendor=value")
    assert second.headers["traceparent"] == "the caller's own"
    assert "tracestate" not in second.headers


def test_without_a_trace_nothing_is_added(make_app: AppMaker) -> None:
    """A call outside of any trace has no such headers."""
    app = make_app()
    app.send_task("a")
    (message,) = take(app, "default")
    assert not {"traceparent", "tracestate"} & set(message.headers)
