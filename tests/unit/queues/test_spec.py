"""Names, priorities and the values of a queue's spec."""

from __future__ import annotations

import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_app.queues import DeadLetters, InvalidPriority, InvalidQueueName, QueueSpec, QueueType
from broker_app.queues.delay import MAX_DELAY_SECONDS, split_delay
from broker_app.queues.spec import (
    AMQP_SHORT_STRING_BYTES,
    DEFAULT_PRIORITY,
    DELAY_KEY_HEAD_BYTES,
    MAX_QUEUE_NAME_BYTES,
    check_priority,
    check_queue_name,
)

PLAIN = QueueSpec("lopri")
PRIORITISED = QueueSpec("default", has_priorities=True)


@pytest.mark.parametrize(
    "name", ["default", "lopri", "a", "9", "a.b.c", "A_b-c.0", "taskss", "delayed", "dead", "a.deadly"]
)
def test_a_plain_name_is_taken(name: str) -> None:
    """Letters, digits, underscores, hyphens and single inner dots make a queue's name."""
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        ".a",
        "a.",
        "a..b",
        "a*b",
        "*",
        "#",
        "a.#",
        "a,b",
        "a/b",
        "a\n",
        "\ta",
        "ä",
        "a@b",
        "a:b",
        "\0",
        "a\n.b",
    ],
)
def test_a_name_that_amqp_or_celery_would_misread_is_refused(name: str) -> None:
    """Wildcards, commas, blanks, empty words and all but ASCII are refused with the name in the message."""
    with pytest.raises(InvalidQueueName, match="letters, digits") as caught:
        check_queue_name(name)
    assert repr(name) in str(caught.value) or not name.strip()


@pytest.mark.parametrize(
    "name",
    ["amq", "amq.topic", "tasks", "tasks.due", "tasks.unrouted", "delay", "delay.10s", "default.dead", "a.b.dead"],
)
def test_a_name_that_is_the_brokers_or_ours_is_refused(name: str) -> None:
    """No queue may be named like a lane, a dead-letter queue, the unrouted queue or the broker's own entities."""
    with pytest.raises(InvalidQueueName, match="must not be"):
        check_queue_name(name)


def test_a_prefix_cannot_make_a_name_the_brokers() -> None:
    """The name on the broker counts: `amq.` in the prefix is refused as it is in the name."""
    with pytest.raises(InvalidQueueName, match=r"amq\."):
        check_queue_name("default", prefix="amq.")


def test_the_longest_name_is_233_bytes_with_its_prefix() -> None:
    """A name of 233 bytes is taken and one of 234 is refused, wherever the prefix ends."""
    assert MAX_QUEUE_NAME_BYTES == 233
    assert check_queue_name("q" * 226, prefix="p" * 7)
    with pytest.raises(InvalidQueueName, match="at most 233 bytes with its prefix, got 234"):
        check_queue_name("q" * 227, prefix="p" * 7)


def test_the_longest_delay_fits_before_the_longest_name() -> None:
    """The reserved head is exactly the longest one that a delay can put before a name."""
    head = split_delay(MAX_DELAY_SECONDS).routing_key("")
    assert len(head) == DELAY_KEY_HEAD_BYTES
    assert DELAY_KEY_HEAD_BYTES + MAX_QUEUE_NAME_BYTES == AMQP_SHORT_STRING_BYTES


@given(st.text(alphabet=string.ascii_letters + string.digits + "._-*# ,\n\0", max_size=12))
def test_what_is_taken_has_no_wildcard_and_no_empty_word(name: str) -> None:
    """A name that is taken is one or more words, none empty and none a wildcard, joined by dots."""
    try:
        check_queue_name(name)
    except InvalidQueueName:
        return
    assert all(word and set(word) <= set(string.ascii_letters + string.digits + "_-") for word in name.split("."))


@pytest.mark.parametrize("priority", range(10))
def test_a_priority_of_0_to_9_is_sent_as_it_is(priority: int) -> None:
    """Larger is more urgent, and nothing turns the scale around."""
    assert check_priority(PRIORITISED, priority) == priority


def test_a_task_without_a_priority_gets_the_brokers_middle() -> None:
    """Unset is sent as 4 on every queue type, as quorum queues count it; a queue without priorities gets none."""
    assert check_priority(PRIORITISED, None) == DEFAULT_PRIORITY == 4
    assert check_priority(PLAIN, None) is None


@pytest.mark.parametrize("priority", [-1, 10, 255, 5.0, "5", True, False, float("nan"), [5]])
def test_a_priority_outside_0_to_9_is_refused(priority: object) -> None:
    """Nothing is clipped or rounded: the message names the queue, the range, the direction and the value."""
    with pytest.raises(InvalidPriority) as caught:
        check_priority(PRIORITISED, priority)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"queue 'default': priority must be an integer 0..9 (larger is more urgent), got {priority!r}"
    )


@pytest.mark.parametrize("priority", [0, 4, 9, 99])
def test_a_queue_without_priorities_refuses_one(priority: int) -> None:
    """It is not ignored: the message says which setting would make it count."""
    with pytest.raises(
        InvalidPriority, match=r"'lopri': expected no priority.*priorities = true in \[queues.lopri\]"
    ):
        check_priority(PLAIN, priority)


def test_the_names_on_the_broker_carry_the_prefix() -> None:
    """A prefix stands before the queue and before its dead letters."""
    spec = QueueSpec("lopri", prefix="shop.")
    assert (spec.broker_name, spec.dead_name) == ("shop.lopri", "shop.lopri.dead")


def test_a_spec_is_a_frozen_value_with_safe_defaults() -> None:
    """Two equal specs are one immutable value; a bare one is quorum and keeps its dead letters."""
    spec = QueueSpec("lopri")
    assert spec == QueueSpec("lopri")
    assert hash(spec) == hash(QueueSpec("lopri"))
    assert (spec.type, spec.dead_letters, spec.has_priorities) == (QueueType.QUORUM, DeadLetters.KEEP, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]
