"""A memory alarm on the test's broker: RabbitMQ stops reading from every connection that publishes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from rabbitmqctl import is_reachable, port_of, rabbitmqctl
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers import Management

_WAIT_SECONDS = 30


@contextmanager
def memory_alarm(management: Management, amqp_url: str) -> Iterator[None]:
    """Raise the alarm for the length of a block.

    A broker whose command line cannot be reached (given by its URL, on another machine) skips the test.
    """
    port = port_of(amqp_url)
    if not is_reachable(port):
        pytest.skip("the memory alarm needs rabbitmqctl: a container or a private node of this machine")
    counted = wait_until(
        lambda: management.get("nodes?columns=mem_limit")[0], _WAIT_SECONDS, "a new node to count its memory"
    )
    limit = counted["mem_limit"]

    def set_limit(limit_bytes: int, *, is_alarm: bool) -> None:
        rabbitmqctl(port, "set_vm_memory_high_watermark", "absolute", str(limit_bytes))
        wait_until(
            lambda: management.get("nodes?columns=mem_alarm")[0]["mem_alarm"] is is_alarm,
            _WAIT_SECONDS,
            f"the alarm to be {'on' if is_alarm else 'off'}",
        )

    try:
        set_limit(1_000_000, is_alarm=True)
        yield
    finally:
        set_limit(limit, is_alarm=False)
