"""The queue of a worker's mailbox."""

from __future__ import annotations

from broker_app import BrokerApp


def test_a_mailbox_that_moved_is_of_the_same_worker_and_host() -> None:
    """Its name is another one, with which the rights of a worker and the list of hosts still agree."""
    mailbox = BrokerApp("a", set_as_current=False).control.mailbox
    assert mailbox.get_queue("lopri@host").name == "lopri@host.celery.pidbox"

    mailbox.move()
    mailbox.move()

    assert mailbox.get_queue("lopri@host").name == "lopri+2@host.celery.pidbox"
    assert mailbox.get_queue("lopri@host").exclusive
