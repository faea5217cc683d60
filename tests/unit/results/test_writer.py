"""States that a worker puts aside: folded, stored in batches, and not settled before they are stored."""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from celery import states
from celery.app.task import Context
from waiting import wait_until

from broker_app import BrokerApp
from broker_app.results import writer
from broker_app.results.write import CHORD_PART, RESULT
from broker_app.results.writer import ResultWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

SECONDS = 30.0


@pytest.fixture
def app(tmp_path: Path) -> Iterator[BrokerApp]:
    """Return an app that stores as a worker does whose tasks run in its own process."""
    with_results = _app(tmp_path)
    with_results.result_writer.is_batching = True
    yield with_results
    wait_until(lambda: not with_results.result_writer, SECONDS, "all to be stored")
    with_results.close()


def _app(folder: Path) -> BrokerApp:
    file = folder / "settings.toml"
    file.write_text(f"state_dir = '{folder / 'state'}'\n", encoding="utf-8")
    return BrokerApp("tests", config=file, set_as_current=False)


class _Store:
    """A store that writes batches when it may."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.is_open = threading.Event()
        self.is_asked = threading.Event()

    def write(self, rows: Sequence[Any]) -> None:
        self.is_asked.set()
        self.is_open.wait(SECONDS)
        self.batches.append(list(rows))


def _put(to: ResultWriter, number: int, state: str, write: Callable[[Sequence[Any]], object]) -> None:
    assert to.put((f"id-{number}", RESULT), state, (number, state), write, is_awaited=False)


def test_what_waits_is_written_at_once_and_started_is_folded() -> None:
    """While one batch is written the next one gathers; a final state replaces STARTED, and nothing a success."""
    store, to = _Store(), ResultWriter()
    _put(to, 0, states.SUCCESS, store.write)
    assert store.is_asked.wait(SECONDS)
    for number in range(1, 6):
        _put(to, number, states.STARTED, store.write)
        _put(to, number, states.SUCCESS, store.write)
        _put(to, number, states.STARTED, store.write)
    store.is_open.set()
    wait_until(lambda: not to, SECONDS, "all to be written")
    assert store.batches == [[(0, states.SUCCESS)], [(number, states.SUCCESS) for number in range(1, 6)]]


def test_a_message_is_settled_after_its_result_is_stored() -> None:
    """Not before, even if the state that waits is replaced; and at once if no result waits."""
    store, to, settled = _Store(), ResultWriter(), list[int]()
    to.when_stored("id-0", lambda: settled.append(0))
    assert settled == [0]
    _put(to, 1, states.FAILURE, store.write)
    assert store.is_asked.wait(SECONDS)
    _put(to, 2, states.FAILURE, store.write)
    for number in (1, 2):
        to.when_stored(f"id-{number}", lambda: settled.append(len(store.batches)))
    _put(to, 2, states.SUCCESS, store.write)
    assert settled == [0]
    store.is_open.set()
    wait_until(lambda: settled == [0, 1, 2], SECONDS, "both to be settled")


def test_a_member_of_a_chord_is_settled_after_what_follows() -> None:
    """Its result and its part are one batch; its message waits until what follows from the part is done."""
    store, to, settled = _Store(), ResultWriter(), threading.Event()
    store.is_open.set()
    ends: list[Callable[[], None]] = []
    for key, is_followed, then in (((RESULT), True, None), ((CHORD_PART), False, ends.append)):
        assert to.put(
            ("id-1", key), states.SUCCESS, key, store.write, is_awaited=False, is_followed=is_followed, then=then
        )
    to.when_stored("id-1", settled.set)
    wait_until(lambda: bool(ends), SECONDS, "the part to be stored")
    assert (store.batches, settled.is_set()) == ([[RESULT, CHORD_PART]], False)
    ends.pop()()
    assert settled.is_set()


def test_a_member_that_is_twice_in_a_header_is_stored_twice() -> None:
    """Both have the same id: the second one waits until the first is being written."""
    store, to, ends = _Store(), ResultWriter(), list[Any]()

    def put(position: int) -> None:
        to.put(("id-1", CHORD_PART), states.SUCCESS, position, store.write, is_awaited=False, then=ends.append)

    _put(to, 0, states.SUCCESS, store.write)
    assert store.is_asked.wait(SECONDS)
    put(0)
    second = threading.Thread(target=put, args=(1,), daemon=True)
    second.start()
    store.is_open.set()
    second.join(SECONDS)
    wait_until(lambda: len(ends) == 2, SECONDS, "both to be stored")
    assert store.batches[1:] == [[0], [1]]


def test_a_later_state_takes_over_the_message_of_one_that_fails() -> None:
    """A state is replaced while its write fails: what waits for it goes on, and the message is settled."""
    store, to, settled = _Store(), ResultWriter(), threading.Event()

    def fail(rows: Sequence[Any]) -> None:
        store.write(rows)
        raise OSError("away")

    first = to.put(("id-1", RESULT), states.FAILURE, (1, states.FAILURE), fail, is_awaited=True)
    assert first is not None
    assert store.is_asked.wait(SECONDS)
    to.when_stored("id-1", settled.set)
    _put(to, 1, states.SUCCESS, store.write)
    waiting = threading.Thread(target=to.wait, args=(first,), daemon=True)
    waiting.start()
    store.is_open.set()
    waiting.join(SECONDS)
    assert not waiting.is_alive()
    assert settled.wait(SECONDS)


def test_the_number_of_waiting_states_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose state finds no room waits for the store."""
    monkeypatch.setattr(writer, "MAX_WAITING", 1)
    store, to = _Store(), ResultWriter()
    _put(to, 1, states.SUCCESS, store.write)
    second = threading.Thread(target=_put, args=(to, 2, states.SUCCESS, store.write))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert len(to) == 1
    store.is_open.set()
    second.join(SECONDS)
    wait_until(lambda: not to, SECONDS, "both to be written")


def test_a_store_that_is_away_for_long_holds_no_message(
    app: BrokerApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is settled after a while, and the result is stored once the store is back."""
    monkeypatch.setattr(writer, "HOLD_SECONDS", 0.1)
    (tmp_path / "state").write_text("in the way", encoding="utf-8")
    app.backend.store_result("id-1", 1, states.SUCCESS)
    settled = threading.Event()
    app.result_writer.when_stored("id-1", settled.set)
    assert settled.wait(SECONDS)
    monkeypatch.setattr(writer, "MAX_WAITING", 1)
    with pytest.raises(NotADirectoryError):
        app.backend.store_result("id-2", 1, states.SUCCESS)
    (tmp_path / "state").unlink()
    wait_until(lambda: not app.result_writer, SECONDS, "the result to be stored")
    assert app.AsyncResult("id-1").state == states.SUCCESS


def test_this_process_reads_what_waits(app: BrokerApp) -> None:
    """STARTED may wait for what follows, but not for a reader in the same process."""
    app.backend.store_result("id-1", {}, states.STARTED)
    assert app.AsyncResult("id-1").state == states.STARTED


def test_started_is_encoded_only_if_it_is_written(app: BrokerApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not if the task's end replaces it; a member of a chord does not wait for it either."""
    encoded: list[str] = []
    prepare = app.backend.prepare_row

    def noted(*args: Any) -> Any:
        encoded.append(args[2])
        return prepare(*args)

    monkeypatch.setattr(app.backend, "prepare_row", noted)
    member = Context(id="id-1", chord={"task": "shop.body"})
    app.backend.store_result("id-1", {"pid": 1}, states.STARTED, request=member)
    app.backend.store_result("id-1", 1, states.SUCCESS)
    assert app.AsyncResult("id-1").get(timeout=SECONDS) == 1
    assert encoded == [states.SUCCESS]
    app.backend.store_result("id-2", {"pid": 1}, states.STARTED)
    assert app.AsyncResult("id-2").info == {"pid": 1}


@pytest.mark.parametrize(
    ("state", "result"),
    [
        (states.FAILURE, ValueError("x")),
        (states.SUCCESS, "x" * 1_100_000),
    ],
    ids=["failure", "large"],
)
def test_what_others_may_read_at_once_is_stored_at_once(
    app: BrokerApp, tmp_path: Path, state: str, result: Any
) -> None:
    """A failure and a large result are there for all when `store_result` returns."""
    app.backend.store_result("id-1", result, state)
    reader = _app(tmp_path)
    assert reader.AsyncResult("id-1").state == state
    reader.close()


def test_a_success_is_not_overwritten(app: BrokerApp, tmp_path: Path) -> None:
    """By a later state of another run of the task, in this process or in another; a failure is."""
    app.backend.store_result("id-1", 1, states.SUCCESS)
    app.backend.store_result("id-1", ValueError("x"), states.FAILURE)
    other = _app(tmp_path)
    other.backend.store_result("id-1", {}, states.STARTED)
    assert other.AsyncResult("id-1").get(timeout=SECONDS) == 1
    other.backend.store_result("id-2", ValueError("x"), states.FAILURE)
    app.backend.store_result("id-2", 2, states.SUCCESS)
    assert app.AsyncResult("id-2").get(timeout=SECONDS) == 2
    other.close()


def test_one_that_the_store_refuses_keeps_no_other_from_being_stored() -> None:
    """The rows of a refused batch are written one by one."""
    written: list[Any] = []

    def write(rows: Sequence[Any]) -> None:
        if (2, states.SUCCESS) in rows:
            raise ValueError("cannot hold it")
        written.extend(rows)

    to, store = ResultWriter(), _Store()
    _put(to, 0, states.SUCCESS, store.write)
    assert store.is_asked.wait(SECONDS)
    for number in (1, 2, 3):
        _put(to, number, states.SUCCESS, write)
    store.is_open.set()
    wait_until(lambda: not to, SECONDS, "the others to be written")
    assert written == [(1, states.SUCCESS), (3, states.SUCCESS)]


def test_a_forked_process_stores_at_once(app: BrokerApp, tmp_path: Path) -> None:
    """It has no thread that writes, and nobody waits there for a result to be stored."""
    app.backend.store_result("id-1", {}, states.STARTED)
    child = os.fork()
    if not child:
        app.backend.store_result("id-2", 2, states.SUCCESS)
        os._exit(len(app.result_writer) or app.result_writer.is_batching)
    assert os.waitpid(child, 0)[1] == 0
    assert app.AsyncResult("id-2").get(timeout=SECONDS) == 2
    shutil.rmtree(tmp_path / "state")
