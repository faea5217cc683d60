"""Poison guard: isolates tasks that may have killed their worker, so that only the guilty one is blamed.

A task that was redelivered once may run concurrently with others: most redeliveries follow a lost connection. A
task that was redelivered twice, or whose next start would be its last, runs as the only such task in the worker;
the others wait. If the worker then dies, the crash log holds one start, and the tasks that waited are not blamed.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ALONE_FROM_STARTS = 2
"""Starts without an end after which a task is isolated from other suspects."""

Task = TypeVar("Task")


class PoisonGuard(Generic[Task]):
    """Runs suspects, isolating each one that was started often; the others queue here.

    Args:
        starts: Returns the number of earlier starts of a task, at least 1.
        limit: Returns the number of starts after which a task is given up.
        run: Starts a task; called without holding the lock.
        give_up: Gives up a task, with its number of starts.
    """

    def __init__(
        self,
        *,
        starts: Callable[[Task], int],
        limit: Callable[[Task], int],
        run: Callable[[Task], object],
        give_up: Callable[[Task, int], object],
    ) -> None:
        self._starts = starts
        self._limit = limit
        self._run = run
        self._give_up = give_up
        self._lock = threading.Lock()
        self._alone: Task | None = None
        self._waiting: deque[Task] = deque()

    def admit(self, task: Task) -> None:
        """Start a redelivered task, queue it, or give it up."""
        starts, limit = self._starts(task), self._limit(task)
        if starts >= limit:
            self._give_up(task, starts)
        elif self._may_start(task, is_alone=starts >= min(ALONE_FROM_STARTS, limit - 1)):
            self._run(task)

    def release(self, task: Task) -> None:
        """Record that a task, isolated or not, has ended with any outcome, and admit the next one."""
        if self._alone is None:  # most of the time: nothing waits then
            return
        with self._lock:
            if self._alone is not task:
                return
            self._alone = None
        self._admit_next()

    def withdraw(self, tasks: Collection[Task]) -> None:
        """Remove tasks that will not be started by this worker, and admit the next one."""
        with self._lock:
            self._waiting = deque(task for task in self._waiting if task not in tasks)
            if self._alone not in tasks:
                return
            self._alone = None
        self._admit_next()

    def clear(self) -> None:
        """Remove all tasks, after a lost connection or at shutdown; the broker redelivers them."""
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
        """Admit waiting tasks until one of them starts; a task that is given up does not occupy the place."""
        while True:
            with self._lock:
                if self._alone is not None or not self._waiting:
                    return
                task = self._waiting.popleft()
            self.admit(task)
