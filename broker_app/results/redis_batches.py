"""Redis batches: many task states in one pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery import states

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Row(NamedTuple):
    key: Any
    payload: Any
    expires: int | None


class RedisBatches:
    """Mixin for the Redis backend."""

    can_batch = True
    counts_once = True

    client: Any
    decode: Any
    encode: Any
    expires: Any
    failure_expires: Any
    get_key_for_task: Any
    _get_result_meta: Any

    def prepare_row(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> tuple[_Row, int]:
        """Return a state as `write_rows` takes it, and its size in bytes."""
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        payload = self.encode(meta | {"task_id": task_id})
        expires = self.failure_expires if state == states.FAILURE else self.expires
        return _Row(self.get_key_for_task(task_id), payload, expires), len(payload)

    def write_rows(self, rows: Sequence[_Row]) -> None:
        """Store states and publish them; like Celery, leave a stored SUCCESS as it is."""
        stored = zip(rows, self.client.mget([row.key for row in rows]), strict=True)
        changing = [row for row, old in stored if old is None or self.decode(old)["status"] != states.SUCCESS]
        with self.client.pipeline() as pipe:
            for row in changing:
                pipe.set(row.key, row.payload, ex=row.expires or None)
                pipe.publish(row.key, row.payload)
            pipe.execute()
