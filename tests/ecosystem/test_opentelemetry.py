"""OpenTelemetry's Celery instrumentation joins a call, its run and its spans: docs/how-to/opentelemetry.md."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from documents import ROOT, blocks
from waiting import wait_until

if TYPE_CHECKING:
    from projects import Project

EXPORTER = '''
import json
from pathlib import Path
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class ToFile(SpanExporter):
    """Writes what a collector would get."""

    def export(self, spans):
        with Path("spans.jsonl").open("a") as file:
            for span in spans:
                context, parent = span.get_span_context(), span.parent
                file.write(json.dumps({
                    "name": span.name, "trace": context.trace_id, "id": context.span_id,
                    "parent": parent and parent.span_id, "links": [link.context.span_id for link in span.links],
                    "queue": span.attributes.get("messaging.destination"),
                }) + "\\n")
        return SpanExportResult.SUCCESS
'''

TASKS = """
from opentelemetry import trace
from shop import app

tracer = trace.get_tracer("shop")


@app.task
def pack(*_):
    with tracer.start_as_current_span("packing"):
        pass


@app.task(bind=True)
def pack_again(self):
    with tracer.start_as_current_span(f"attempt {self.request.retries}"):
        if not self.request.retries:
            raise self.retry(countdown=0.1)
"""

CALLS = """
import sys
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from broker_app import publish_many
from broker_app.errors import NoRoute
from shop.tasks import app, pack, pack_again, tracer

with tracer.start_as_current_span("request") as request:
    pack.apply_async(queue="lopri")
    pack.apply_async(queue="lopri", countdown=0.5)
    assert publish_many(pack.s().set(queue="lopri") for _ in range(3)).run().accepted == 3
    (pack.s() | pack.s()).apply_async()
    pack_again.apply_async()
    app.send_task("shop.unknown", queue="default", expires=0.001)  # known to workers only, for all that we know
    try:
        pack.apply_async(queue="lopri", routing_key="nowhere", exchange="amq.direct")
    except NoRoute:
        pass
    assert trace.get_current_span() is request
pack.apply_async(queue="default", shadow="outside")
CeleryInstrumentor().uninstrument()
with tracer.start_as_current_span("plain request"):
    pack.apply_async(queue="default")
"""

SECONDS = 60.0
REQUEST, PLAIN = "request", "plain request"
PUBLISHED, RAN = "apply_async/shop.tasks.pack", "run/shop.tasks.pack"
pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Spans:
    """The spans that a collector got.

    Attributes:
        all: The spans, by their ids.
    """

    all: dict[int, dict[str, Any]]

    def paths(self, name: str) -> list[list[str]]:
        """Return the names from the root down to each span of a name; all of one path are of one trace."""
        return sorted(self._path(span) for span in self.all.values() if span["name"] == name)

    def _path(self, span: dict[str, Any]) -> list[str]:
        if span["parent"] is None:
            return [span["name"]]
        parent = self.all[span["parent"]]
        assert parent["trace"] == span["trace"]
        return [*self._path(parent), span["name"]]


def recorded(project: Project, pool: str, instrument: str) -> Spans:
    """Let a process call tasks, as a web request would, and a worker run them."""
    (block,) = blocks(ROOT / "docs" / "how-to" / "opentelemetry.md", "python")
    lines = [line for line in block.text.splitlines() if "exporter.otlp" not in line]
    text = "\n".join(lines).replace("OTLPSpanExporter()", "ToFile(), schedule_delay_millis=100")
    project.put("shop/__init__.py", EXPORTER + text.replace("instrument()", instrument))
    project.put("shop/tasks.py", TASKS)
    project.put("calls.py", CALLS)
    file = project.folder / "spans.jsonl"
    file.write_text("")

    def runs() -> int:
        return file.read_text(encoding="utf-8").count('"run/shop.tasks.')

    with project.worker("shop", pool=pool):
        done = project.run(sys.executable, "calls.py")
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: runs() == 11, SECONDS, "the spans of eleven runs")
    spans = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return Spans({span["id"]: span for span in spans})


@pytest.mark.parametrize("pool", ["threads", "prefork", "gevent"])
def test_call_run_and_task_are_one_trace(project: Project, pool: str) -> None:
    """Each run is below the call that published it, and the spans of the task are below the run.

    So it is for a call, a delayed one, each of many at once, the links of a chain, and retries; a call outside of
    any span begins a trace, and one from a process without the instrumentation is the parent itself.
    """
    spans = recorded(project, pool, "instrument()")

    called = [REQUEST, PUBLISHED, RAN]
    assert spans.paths("packing") == sorted(
        [[*called, "packing"]] * 6
        + [[*called, PUBLISHED, RAN, "packing"], [PUBLISHED, RAN, "packing"], [PLAIN, RAN, "packing"]]
    )
    parents = [span["parent"] for span in spans.all.values() if span["name"] == RAN]
    assert len(set(parents)) == len(parents)
    again = [name.replace("pack", "pack_again") for name in called]
    assert spans.paths("attempt 1") == [[*again, "attempt 0", *again[1:], "attempt 1"]]
    queues = {span["queue"] for span in spans.all.values() if span["name"].endswith("shop.tasks.pack")}
    assert queues == {"default", "lopri"}


def test_linked_runs_are_the_parents_of_the_tasks_spans(project: Project) -> None:
    """With span links a run begins a trace, linked to its call, and the task's spans are below the run."""
    spans = recorded(project, "threads", "instrument(use_span_links=True)")

    assert spans.paths("packing") == [[RAN, "packing"]] * 9
    linked = [
        spans.all[link]["name"] for span in spans.all.values() for link in span["links"] if span["name"] == RAN
    ]
    assert sorted(linked) == [PUBLISHED] * 8 + [PLAIN]
