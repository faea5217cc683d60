"""What a producer may do with the least rights, and what he is told of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from apps import delete, depth
from brokers import vhost_of

from broker_app.errors import (
    NoRoute,
    PublishRefused,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apps import AppMaker
    from brokers import Management


PASSWORD = "s3cr3t"
PRODUCER = r"^(tasks|delay(\.\d+[dhms])?)$"
"""Write on two exchanges; and on the lanes: RabbitMQ 4.3 says whether a queue is there only to who has a right on it."""


@pytest.fixture
def limited(management: Management, fresh_vhost_url: str) -> Iterator[Callable[..., str]]:
    """Return what makes a user with the given rights and returns his URL."""
    made = []

    def make(configure: str = "", write: str = "", read: str = "") -> str:
        name = f"limited-{vhost_of(fresh_vhost_url)}-{len(made)}"
        made.append(name)
        management.put(f"users/{name}", {"password": PASSWORD, "tags": ""})
        rights = {"configure": configure, "write": write, "read": read}
        management.put(f"permissions/{vhost_of(fresh_vhost_url)}/{name}", rights)
        place = urlsplit(fresh_vhost_url)
        return f"amqp://{name}:{PASSWORD}@{place.hostname}:{place.port}{place.path}"

    yield make
    for name in made:
        management.delete(f"users/{name}")


@pytest.mark.version
def test_a_producer_needs_the_right_to_write_only(make_app: AppMaker, limited: Callable[..., str]) -> None:
    """Where the topology is declared ahead it publishes, now and through lanes that exist."""
    make_app().send_task("shop.add", queue="lopri", countdown=3_600)
    make_app().send_task("shop.add", queue="lopri")
    producer = make_app(url=limited(write=PRODUCER))
    producer.send_task("shop.add", queue="lopri")
    producer.send_task("shop.add", queue="lopri", countdown=3_600)
    assert (depth(producer, "lopri"), depth(producer, "delay.1h")) == (2, 2)


@pytest.mark.version
def test_a_producer_that_may_not_declare_is_told_what_is_missing(
    make_app: AppMaker, limited: Callable[..., str]
) -> None:
    """The lane, or the queue, is named, with the reply code and the command for who may."""
    admin = make_app()
    admin.send_task("shop.add", queue="lopri")
    producer = make_app(url=limited(write=PRODUCER))
    with pytest.raises(NoRoute, match=r"lane of delay\.7s is missing.*403.*topology declare") as caught:
        producer.send_task("shop.add", queue="lopri", countdown=7)
    assert caught.value.maybe_taken is False
    delete(admin, "lopri")
    with pytest.raises(NoRoute, match=r"queue 'lopri'.*403.*topology declare"):
        producer.send_task("shop.add", queue="lopri")
    assert (depth(admin, "lopri"), depth(admin, "delay.7s")) == (None, None)


@pytest.mark.version
def test_a_user_without_the_right_to_write_is_refused(make_app: AppMaker, limited: Callable[..., str]) -> None:
    """The reply of the broker is in the text, and the password is not."""
    make_app().send_task("shop.add")
    reader = make_app(url=limited(read=".*"))
    with pytest.raises(PublishRefused, match=r"403 ACCESS_REFUSED.*it was not published") as caught:
        reader.send_task("shop.add")
    assert PASSWORD not in str(caught.value)
