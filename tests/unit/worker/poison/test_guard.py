"""Suspects: those that start together, those that start alone, and those that are given up."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app.worker.poison.guard import PoisonGuard


@dataclass
class Ward:
    """A quarantine whose tasks are names.

    Attributes:
        limit: Of all tasks.
        starts: How often each was started before.
        running: What runs.
        buried: What was given up, with its starts.
    """

    limit: int = 5
    starts: dict[str, int] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    buried: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quarantine = PoisonGuard[str](
            starts=lambda task: self.starts.get(task, 1),
            limit=lambda _task: self.limit,
            run=self._run,
            give_up=lambda task, starts: self.buried.append((task, starts)),
        )

    def _run(self, task: str) -> None:
        self.starts[task] = self.starts.get(task, 1) + 1
        self.running.append(task)

    def end(self, task: str) -> None:
        """Let a task end."""
        self.running.remove(task)
        self.quarantine.release(task)

    def die(self) -> list[str]:
        """Lose the worker, and return what ran."""
        ran, self.running = self.running, []
        self.quarantine.clear()
        return ran


def test_what_came_back_once_runs_beside_others() -> None:
    """Tasks that were redelivered once run next to each other."""
    ward = Ward()
    for task in ("a", "b", "c"):
        ward.quarantine.admit(task)
    assert ward.running == ["a", "b", "c"]


def test_what_came_back_twice_runs_alone() -> None:
    """The others of its kind wait for it, in their order; those that came back once do not."""
    ward = Ward(starts={"a": 2, "b": 2, "c": 1})
    for task in ("a", "b", "c"):
        ward.quarantine.admit(task)
    assert ward.running == ["a", "c"]
    ward.end("a")
    assert ward.running == ["c", "b"]


@pytest.mark.parametrize("limit", [2, 3, 5, 20])
def test_a_last_start_is_never_beside_another_suspect(limit: int) -> None:
    """Whatever the limit, a task that is given up died at least once without another suspect."""
    ward = Ward(limit=limit, starts={"a": limit - 1, "b": limit - 1})
    ward.quarantine.admit("a")
    ward.quarantine.admit("b")
    assert ward.running == ["a"]


def test_who_reached_the_limit_is_not_started() -> None:
    """It is given up at once, and takes no slot."""
    ward = Ward(limit=3, starts={"poison": 3, "a": 2})
    ward.quarantine.admit("poison")
    ward.quarantine.admit("a")
    assert ward.buried == [("poison", 3)]
    assert ward.running == ["a"]


def test_who_waited_and_meanwhile_reached_the_limit() -> None:
    """Other workers may have started it: it is judged when its turn comes, and the next one starts."""
    ward = Ward(limit=3, starts={"a": 2, "b": 2, "c": 2})
    for task in ("a", "b", "c"):
        ward.quarantine.admit(task)
    ward.starts["b"] = 3
    ward.end("a")
    assert ward.buried == [("b", 3)]
    assert ward.running == ["c"]


def test_a_lost_connection_forgets_who_waits() -> None:
    """The broker has them again, and a place is free; the end of what still ran changes nothing."""
    ward = Ward(starts={"a": 2, "b": 2, "c": 2})
    ward.quarantine.admit("a")
    ward.quarantine.admit("b")
    ward.quarantine.clear()
    ward.quarantine.admit("c")
    assert ward.running == ["a", "c"]
    ward.end("a")
    assert ward.running == ["c"]


@given(
    innocents=st.integers(0, 30),
    limit=st.integers(2, 8),
    places=st.lists(st.integers(0, 100), min_size=60, max_size=60),
)
def test_the_poisoned_is_given_up_and_no_innocent(innocents: int, limit: int, places: list[int]) -> None:
    """One task kills its worker whenever it is started: it is started ``limit`` times, and all others finish.

    All were in the worker's hands when it died first, and come back in any order.
    """
    ward, finished = Ward(limit=limit), set[str]()
    left = [f"innocent-{number}" for number in range(innocents)]
    for place in places:
        if ward.buried:
            break
        waiting = list(left)
        waiting.insert(place % (len(left) + 1), "poison")
        for task in waiting:
            ward.quarantine.admit(task)
        while ward.running and "poison" not in ward.running:
            task = ward.running[0]
            finished.add(task)
            left.remove(task)
            ward.end(task)
        if "poison" in ward.running:
            ward.die()
    assert ward.buried == [("poison", limit)]
    for task in list(left):
        ward.quarantine.admit(task)
    while ward.running:
        left.remove(ward.running[0])
        ward.end(ward.running[0])
    assert not left
