"""Tasks that may have killed their worker are started so that, in the end, only the one that did is to blame.

A task that came back once may run beside others: most come back because a connection was lost. One that came back
twice, or whose next start would be its last, runs without another such task beside it; the others wait in the
worker. So if the worker dies, the start of one of them was written down, and those that waited are not blamed.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ALONE_FROM_STARTS = 2
"""After so many starts in each of which the worker was lost, a task has no other suspect beside it."""

Task = TypeVar("Task")


class PoisonGuard(Generic[Task]):
    """Who may start now, and who waits.

    Args:
        starts: Returns how often a task was started before, at least 1.
        limit: Returns after how many starts it is not started again.
        run: Starts it; called without a lock held.
        bury: Gives it up.
    """

    def __init__(
        self,
        *,
        starts: Callable[[Task], int],
        limit: Callable[[Task], int],
        run: Callable[[Task], object],
        bury: Callable[[Task, int], object],
    ) -> None:
        self._starts = starts
        self._limit = limit
        self._run = run
        self._bury = bury
        self._lock = threading.Lock()
        self._alone: Task | None = None
        self._waiting: deque[Task] = deque()

    def admit(self, task: Task) -> None:
        """Start a task that came back, let it wait, or give it up."""
        starts, limit = self._starts(task), self._limit(task)
        if starts >= limit:
            self._bury(task, starts)
        elif self._may_start(task, is_alone=starts >= min(ALONE_FROM_STARTS, limit - 1)):
            self._run(task)

    def release(self, task: Task) -> None:
        """Note that a task has ended, however; and look who is next. Any task may be named."""
        with self._lock:
            if self._alone is not task:
                return
            self._alone = None
        self._admit_next()

    def withdraw(self, tasks: Collection[Task]) -> None:
        """Forget tasks that are no longer to be started here, and look who is next."""
        with self._lock:
            self._waiting = deque(task for task in self._waiting if task not in tasks)
            if self._alone not in tasks:
                return
            self._alone = None
        self._admit_next()

    def clear(self) -> None:
        """Forget all: the connection is lost, or the worker stops; the broker has them again."""
        with self._lock:
            self._alone = None
            self._waiting.clear()

    def _may_start(self, task: Task, *, is_alone: bool) -> bool:
        if not is_alone:
            return True
        with self._lock:
            if self._alone is not None:
                self._waiting.append(task)
                return False
            self._alone = task
            return True

    def _admit_next(self) -> None:
        """Look at those who wait until one of them starts; burying one takes no place."""
        while True:
            with self._lock:
                if self._alone is not None or not self._waiting:
                    return
                task = self._waiting.popleft()
            self.admit(task)
