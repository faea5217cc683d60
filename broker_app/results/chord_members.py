"""Chord members that never run: they end their chord with an error, as those that fail do.

Celery counts a member that expires or is cancelled, but not the end of a chain whose earlier task does, nor a task
that raises `Ignore`. Such chords would wait for ever.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import states
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import Ignore, TaskRevokedError

from broker_app.errors import ResultStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


class ChordMembers:
    """Mixin for result backends. Those that count a member once, however often it ends, set `counts_once`."""

    get_task_meta: Any
    on_chord_part_return: Any

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        state: str = states.REVOKED,
    ) -> None:
        """Store that a task was cancelled or has expired, as Celery does, and end the chord of its chain."""
        super().mark_as_revoked(task_id, reason, request, store_result, state)  # type: ignore[misc]
        chain = request.chain if request else None
        if any(_chord_parts(chain)):
            self._fail_chain(chain, TaskRevokedError(reason), store_result=store_result, state=state)

    def end_ignored(self, request: Any, error: Ignore) -> None:
        """End the chord of a task that raised `Ignore`, unless the task has stored a final state itself."""
        parts = [*_chord_parts(request.chain)]
        if not request.chord and not parts:
            return
        meta = self.get_task_meta(request.id)
        state, result = states.FAILURE, error
        if meta["status"] in states.READY_STATES:
            state, result = meta["status"], meta["result"]
        if request.chord:
            self.on_chord_part_return(request, state, result)
        for part in parts:
            self.on_chord_part_return(part, states.FAILURE, error)

    def count_again(self, request: Any, state: str, result: Any) -> None:
        """Count a chord's member whose worker may have died before it was counted."""
        if request.chord and getattr(self, "counts_once", False):
            self.on_chord_part_return(request, state, result)

    def _fail_chain(self, chain: Any, exc: Any, *args: Any, state: str = states.FAILURE, **options: Any) -> None:
        """Fail the rest of a chain, as Celery does, and count its last task again.

        Celery does not count it if it has failed before, but then a worker may have died before it was counted.
        """
        super()._fail_chain(chain, exc, *args, state=state, **options)  # type: ignore[misc]
        for part in _chord_parts(chain):
            self.count_again(part, state, exc)


def _chord_parts(chain: Any) -> Iterator[Context]:
    """Yield a request for each task of a chain that a chord counts; the body of a chord in it may be one."""
    left = deque(chain if isinstance(chain, (list, tuple)) else ())
    while left:
        signature = left.popleft()
        context = Context(signature)
        context.update(context.options)
        context.id, context.group = context.options.get("task_id"), context.options.get("group_id")
        if context.options.get("chord"):
            yield context
        if signature.get("subtask_type") == "chord" and (body := (signature.get("kwargs") or {}).get("body")):
            left.append(body)


@contextmanager
def acting_for(task: Any, request: Any) -> Iterator[None]:
    """Publish in the block as a task that handles a request would: with its root, its parent and its priority."""
    if task is None:
        yield
        return
    stacks = ((_task_stack, task), (task.request_stack, request))
    for stack, value in stacks:
        stack.push(value)
    try:
        yield
    finally:
        for stack, _ in stacks:
            stack.pop()


def chord_refused(group_id: str, error: Exception) -> ResultStoreError:
    """Return the error of a chord that is not published because the store does not answer."""
    return ResultStoreError(
        f"chord {group_id}: expected the result store, which counts its members, to answer; "
        f"got {type(error).__name__}: {error}; nothing was published"
    )
