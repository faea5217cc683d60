"""A producer with the fewest rights: the calls that work, and the errors of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from apps import USER_PASSWORD, delete, depth

from broker_app.errors import (
    NoRoute,
    PublishRefused,
)

if TYPE_CHECKING:
    from apps import AppMaker, MakeUser


PRODUCER = r"^(tasks|delay(\.\d+[dhms])?)$"
"""Write on two exchanges and on the lanes: RabbitMQ 4.3 reports a queue only to users with a right on it."""


@pytest.mark.version
def test_a_producer_needs_the_right_to_write_only(make_app: AppMaker, make_user: MakeUser) -> None:
    """With a declared topology it publishes, now and through existing lanes."""
    admin = make_app()
    admin.send_task("shop.add", queue="lopri", countdown=3_600)
    admin.send_task("shop.add", queue="lopri")
    producer = make_app(url=make_user(write=PRODUCER))
    producer.send_task("shop.add", queue="lopri")
    producer.send_task("shop.add", queue="lopri", countdown=3_600)
    assert (depth(admin, "lopri"), depth(admin, "delay.1h")) == (2, 2)


@pytest.mark.version
def test_a_producer_that_may_not_declare_is_told_what_is_missing(make_app: AppMaker, make_user: MakeUser) -> None:
    """The error names the lane or queue, the reply code and the command for the administrator."""
    admin = make_app()
    admin.send_task("shop.add", queue="lopri")
    producer = make_app(url=make_user(write=PRODUCER))
    with pytest.raises(NoRoute, match=r"lane of delay\.[67].* is missing.*403.*topology declare") as caught:
        producer.send_task("shop.add", queue="lopri", countdown=7)
    assert caught.value.maybe_taken is False
    delete(admin, "lopri")
    with pytest.raises(NoRoute, match=r"queue 'lopri'.*403.*topology declare"):
        producer.send_task("shop.add", queue="lopri")
    assert (depth(admin, "lopri"), depth(admin, "delay.7s")) == (None, None)


@pytest.mark.version
def test_a_user_without_the_right_to_write_is_refused(make_app: AppMaker, make_user: MakeUser) -> None:
    """The reply of the broker is in the text, and the password is not."""
    make_app().send_task("shop.add")
    reader = make_app(url=make_user(read=".*"))
    with pytest.raises(PublishRefused, match=r"403 ACCESS_REFUSED.*it was not published") as caught:
        reader.send_task("shop.add")
    assert USER_PASSWORD not in str(caught.value)
