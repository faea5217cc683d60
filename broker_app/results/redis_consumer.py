"""Redis result consumer: subscribes when a result is awaited, and misses no result that is stored meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_UNREAD = 1_000
"""Number of confirmed subscriptions after which the store is read, even if more messages have arrived."""


class LazyConsumer:
    """Mixin for the Redis backend's result consumer: subscribes when a result is awaited.

    Celery subscribes before it publishes each task and whenever a group's result is created, so that nothing can
    be published while the store is down. Here `get()` subscribes and then reads the store.

    A result that is stored before Redis handles the subscription is published without a receiver. After a lost
    connection, Celery reads the store before it subscribes again, and redis-py does not read at all. Even the
    first subscription may reach Redis after the read, which takes another connection. So each confirmed
    subscription leads to a read.
    """

    backend: Any
    subscribed_to: set[bytes]
    reconnect_on_error: Any
    on_state_change: Any
    _decode_result: Any
    _get_key_for_task: Any
    _pending_unsubscribe: set[bytes]
    _locked: Any
    _pubsub: Any
    _wanted: set[bytes]

    def consume_from(self, task_id: str) -> None:
        """Record that a result may be awaited."""
        key = self._get_key_for_task(task_id)
        self._pending_unsubscribe.discard(key)
        if key not in self.subscribed_to:
            self._wanted.add(key)

    def cancel_for(self, task_id: str) -> None:
        """Record that a result is no longer awaited; the next wait ends its subscription.

        Python calls this when it deletes a result. Celery unsubscribes here, and waits for a store that is away.
        """
        key = self._get_key_for_task(task_id)
        if key in self._wanted:
            self._wanted.discard(key)
        elif key in self.subscribed_to:
            self._pending_unsubscribe.add(key)

    def on_wait_for_pending(self, result: Any, **options: Any) -> None:
        """Subscribe, then read the store, as Celery does: most results that are ready are found here."""
        self._subscribe()
        super().on_wait_for_pending(result, **options)  # type: ignore[misc] # Celery's consumer follows in the MRO

    def drain_events(self, timeout: float | None = None) -> None:
        """Read the messages that have arrived, as Celery does.

        Raises:
            OSError: The store is unreachable. Celery's waiting loops handle this error and no other.
        """
        try:
            self._subscribe()
            super().drain_events(timeout)  # type: ignore[misc]
        except TimeoutError:
            raise
        except (RuntimeError, *self.backend.connection_errors) as error:
            raise OSError(f"the result store does not answer: {error!r}") from error

    def _subscribe(self) -> None:
        if not self._wanted and (self._pubsub is not None or not self.subscribed_to):
            return
        with self._locked(), self.reconnect_on_error():
            self._subscribe_to_wanted()

    def _subscribe_to_wanted(self) -> None:
        """Subscribe to the awaited results, with the lock held. If that fails, the next call repeats all."""
        pubsub = self._pubsub
        if pubsub is None:
            pubsub = _confirming(self.backend.client.pubsub(ignore_subscribe_messages=True))
            self._wanted |= self.subscribed_to
        keys = tuple(self._wanted)
        if not keys:  # another thread has just subscribed
            return
        self.subscribed_to.update(keys)
        self._wanted.difference_update(keys)
        self._pubsub = None
        pubsub.subscribe(*keys)
        self._pubsub = pubsub

    def _reconnect_pubsub(self) -> None:
        """Repeat all subscriptions on a new connection; Celery calls this after an error."""
        with self._locked():
            self._pubsub = None
            self.backend.client.connection_pool.reset()
            self.subscribed_to -= self._pending_unsubscribe
            self._pending_unsubscribe.clear()
            self._subscribe_to_wanted()

    def _drain_one(self, pubsub: Any, timeout: float | None) -> bool:
        """Read a message, with the lock held, as Celery does; if none has arrived, read the store if it is due."""
        has_read: bool = super()._drain_one(pubsub, timeout)  # type: ignore[misc]
        if pubsub is self._pubsub and pubsub.confirmed and (not has_read or len(pubsub.confirmed) >= MAX_UNREAD):
            self._read_store(pubsub)
            return True
        return has_read

    def _read_store(self, pubsub: Any) -> None:
        keys = list(pubsub.confirmed & (self.subscribed_to - self._pending_unsubscribe))
        pubsub.confirmed.clear()
        if not keys:
            return
        with self.reconnect_on_error():
            for stored in filter(None, self.backend.client.mget(keys)):
                meta: Mapping[str, Any] = self._decode_result(stored)
                if meta["status"] in states.READY_STATES:
                    self.on_state_change(meta, None)


class ConfirmedChannels:
    """Mixin for redis-py's `PubSub`, which subscribes again by itself when it reconnects.

    Attributes:
        confirmed: The channels whose subscriptions Redis has confirmed; the consumer clears it.
    """

    confirmed: set[bytes]
    encoder: Any

    def handle_message(self, response: Any, *args: Any, **options: Any) -> Any:
        """Note a confirmed subscription."""
        if isinstance(response, (list, tuple)) and response[0] in {b"subscribe", "subscribe"}:
            self.confirmed.add(self.encoder.encode(response[1]))
        return super().handle_message(response, *args, **options)  # type: ignore[misc] # PubSub follows


def _confirming(pubsub: Any) -> Any:
    kind: Any = type(pubsub)
    pubsub.__class__ = type(kind.__name__, (ConfirmedChannels, kind), {"__module__": kind.__module__})
    pubsub.confirmed = set()
    return pubsub
