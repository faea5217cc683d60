"""Chords on SQL stores: the store counts the members, and the last one starts the body, whoever dies meanwhile."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apps import depth
from celery import chord, group
from celery.exceptions import ChordError
from kombu.utils.uuid import uuid
from ledger import Ledger, ledger
from waiting import wait_until

from benchmarks.result_stores import postgresql_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery.canvas import Signature

    from broker_app import BrokerApp

    Sign = Callable[..., Signature]

SECONDS = 60.0

TASKS = """
import os, signal, time
from celery.exceptions import Ignore
from shop import app, file, nap, note, write
from broker_app.results.sql_chords import SqlChords


@app.task
def add(x, y):
    return x + y


@app.task
def same(value=None):
    return value


@app.task(bind=True)
def collect(self, values):
    write(self.request, "body")
    return values


@app.task
def fail(*_results):
    raise ValueError("no luck")


@app.task
def ignore():
    raise Ignore()


@app.task(bind=True)
def ignore_done(self):
    self.update_state(state="SUCCESS", meta=5)
    raise Ignore()


@app.task(bind=True)
def become(self, signature):
    raise self.replace(app.signature(signature))


@app.task(bind=True)
def once_more(self, value):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    return value


@app.task(bind=True)
def errback(self, request, *_):
    with file.with_name("errbacks").open("a") as stream:
        stream.write(str(getattr(request, "id", request)) + "\\n")


start_body = SqlChords._start_body


def start_or_die(backend, *args):
    deadly = file.with_name("deadly")
    if deadly.exists():
        deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    start_body(backend, *args)


SqlChords._start_body = start_or_die
"""


@contextmanager
def project(folder: Path, url: str, store: str = "") -> Iterator[Ledger]:
    """Make the project with the tasks of these tests."""
    result_url = f"result_url = '{store}'\n" if store else ""
    with ledger(folder, url, f"{result_url}[queues.default]\n[queues.lopri]\n") as shop:
        (folder / "chords.py").write_text(TASKS)
        yield shop


def worker(shop: Ledger, pool: str = "threads", name: str = "one") -> Any:
    """Return what runs a worker for the length of a block."""
    quick = ("--without-gossip", "--without-mingle")
    return shop.worker("-P", pool, "-c", "4", "-I", "chords", *quick, name=name)


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vhost_url: str
) -> Iterator[Ledger]:
    """Return a project with a worker."""
    with ExitStack() as stack:
        store = ""
        if request.param == "PostgreSQL":
            if not any(Path("/usr/lib/postgresql").glob("*/bin")):
                pytest.skip("needs PostgreSQL")
            store = str(stack.enter_context(postgresql_url()))
        folder = tmp_path_factory.mktemp("chords")
        shop = stack.enter_context(project(folder, vhost_url, store))
        stack.enter_context(worker(shop))
        yield shop


@pytest.fixture
def app(running: Ledger) -> BrokerApp:
    """Return a client."""
    return running.app()


def signer(app: BrokerApp) -> Sign:
    """Return what makes a signature of a task by its short name."""
    return lambda name, *args, **options: app.signature(f"chords.{name}", args, **options)


def canvases(sign: Sign) -> Iterator[tuple[str, Signature, Any]]:
    """Yield chords: a name, the signature, and the body's argument."""
    many = [sign("same", number) for number in range(12)]
    yield "many", chord(many, sign("collect")), list(range(12))
    yield "empty header", chord([], sign("collect")), []
    yield "generator", chord((sign("same", number) for number in (4, 3)), sign("collect")), [4, 3]
    yield "chain as member", chord([sign("add", 1, 1) | sign("add", 5), sign("same", 2)], sign("collect")), [7, 2]
    inner = chord([sign("same", 1), sign("same", 2)], sign("collect"))
    yield "chord as member", chord([inner, sign("same", 3)], sign("collect")), [[1, 2], 3]
    nested = [sign("same", 1), group(sign("same", 2), sign("same", 2)), sign("same", 4)]
    yield "group as member", chord(nested, sign("collect")), [1, 2, 2, 4]  # Celery flattens it
    forking = chord([sign("same", 1), sign("same", 2)], group(sign("same"), sign("same")))
    yield "chord of a group as member", chord([forking, sign("same", 3)], sign("collect")), [[[1, 2], [1, 2]], 3]
    yield "in a chain", sign("add", 1, 1) | group(sign("add", 1), sign("add", 2)) | sign("collect"), [3, 4]
    late = sign("collect").set(queue="lopri", countdown=0.2)
    yield "queue and countdown", chord([sign("same", 1)], late), [1]
    replaced = [sign("become", sign("same", 1)), sign("same", 2)]
    yield "replaced member", chord(replaced, sign("collect")), [1, 2]
    split = [sign("become", group(sign("same", 1), sign("same", 2))), sign("same", 3)]
    yield "replaced by a group", chord(split, sign("collect")), [[1, 2], 3]
    yield "retried member", chord([sign("once_more", 1), sign("same", 2)], sign("collect")), [1, 2]
    silent = [sign("same", 1).set(ignore_result=True), sign("same", 2)]
    yield "without results", chord(silent, sign("collect")), [1, 2]
    yield "ignored with a result", chord([sign("ignore_done"), sign("same", 2)], sign("collect")), [5, 2]
    frozen = sign("same", 1)
    frozen.freeze()
    yield "one signature twice", chord([frozen, frozen], sign("collect")), [1, 1]


def test_the_body_gets_all_results_in_order(running: Ledger, app: BrokerApp) -> None:
    """Whatever the members are, the body runs once, with their results as the header has them; nothing polls."""
    results = [(name, canvas.apply_async(), told) for name, canvas, told in canvases(signer(app))]
    found = {name: result.get(timeout=SECONDS) for name, result, _ in results}
    assert found == {name: told for name, _, told in results}
    bodies = running.runs("body")
    assert [len(bodies[result.id]) for _, result, _ in results] == [1] * len(results)
    log = "\n".join(path.read_text() for path in running.folder.glob("worker-*"))
    assert "chord_unlock" not in log


def test_a_member_that_does_not_succeed_fails_the_chord(running: Ledger, app: BrokerApp) -> None:
    """It may fail, expire, be cancelled or ignored, alone or in a chain: the body fails, its errback is called."""
    sign = signer(app)
    cancelled = sign("same", 1).set(task_id=uuid())
    app.control.revoke(cancelled.id)
    ends = [sign("fail"), sign("same", 1).set(expires=-1), sign("ignore")]
    members = [*ends, *(end.clone() | sign("same") for end in ends), cancelled]
    body = sign("collect").on_error(sign("errback"))
    bodies = [chord([member, sign("same", 2)], body.clone()).apply_async() for member in members]
    failures = [result.get(timeout=SECONDS, propagate=False) for result in bodies]
    assert [type(failure).__name__ for failure in failures] == [ChordError.__name__] * len(members)
    told = running.folder / "errbacks"
    wait_until(lambda: told.exists() and len(told.read_text().split()) >= len(members), SECONDS, "the errbacks")
    assert set(told.read_text().split()) >= {result.id for result in bodies}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_that_dies_before_it_publishes_the_body(tmp_path: Path, fresh_vhost_url: str, pool: str) -> None:
    """The redelivered member publishes it: each chord's body runs, with its results."""
    with project(tmp_path, fresh_vhost_url) as shop:
        sign = signer(shop.app())
        (tmp_path / "deadly").touch()
        with worker(shop, pool) as first:
            results = [chord([sign("same", 1), sign("same", 2)])(sign("collect")) for _ in range(3)]
            wait_until(lambda: not (tmp_path / "deadly").exists(), SECONDS, "the death")
            if pool == "threads":
                first.process.wait(SECONDS)
            else:
                assert [result.get(timeout=SECONDS) for result in results] == [[1, 2]] * 3
        with worker(shop, pool):
            assert [result.get(timeout=SECONDS) for result in results] == [[1, 2]] * 3


def test_no_chord_is_lost_or_miscounted_when_workers_are_killed(tmp_path: Path, fresh_vhost_url: str) -> None:
    """Whenever that is: each body gets the result of each member once."""
    with project(tmp_path, fresh_vhost_url) as shop:
        app = shop.app()
        sign = signer(app)
        results = [chord([sign("same", number) for number in range(8)])(sign("collect")) for _ in range(40)]
        for kill in range(1, 3):
            with worker(shop):  # killed at the end of the block
                wait_until(lambda kill=kill: len(shop.runs("body")) >= kill * 10, SECONDS, "some to end")
        with worker(shop):
            assert [result.get(timeout=SECONDS) for result in results] == [list(range(8))] * len(results)
            wait_until(lambda: depth(app, "default") == 0, SECONDS, "an empty queue")
