r"""Least-privilege permissions for four broker users: deploy, producer, worker and monitor.

RabbitMQ's permissions are patterns of names: configure (declare and delete), write (publish to, bind) and read
(consume, bind from) (rabbitmq.com/docs/access-control). All names are derived from the settings, so the patterns
are as narrow as the settings allow: with the queues `default` and `lopri` and no prefix a producer may write to
``^(tasks|delay|…|default|lopri)$``. Topic permissions on routing keys would add nothing, because the exchanges
that a producer may publish to route to the queues of the settings only.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kombu.utils.url import parse_url

from broker_app.queues.delay import UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

NOTHING = "^$"
"""A pattern that matches no queue or exchange."""

_DEFAULT_EXCHANGE = r"amq\.default"
"""The name of the default exchange in RabbitMQ's permission checks."""

_LANES = rf"delay\.\d+({'|'.join(unit.name for unit in reversed(UNITS))})"


@dataclass(frozen=True, slots=True)
class Role:
    """The permissions of one user.

    Attributes:
        name: deploy, producer, worker or monitor.
        purpose: The commands that run as this user.
        tag: The user tag for the management API: ``management``, ``monitoring``, or empty.
        configure: Pattern of the names to declare and delete.
        write: Pattern of the names to publish to and bind.
        read: Pattern of the names to consume and bind from.
    """

    name: str
    purpose: str
    tag: str = ""
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING

    def commands(self, user: str, vhost: str) -> Iterator[str]:
        """Yield the shell commands that grant a user these permissions.

        Args:
            user: An existing user, created by ``rabbitmqctl add_user``.
            vhost: The virtual host.
        """
        where = f"-p {shlex.quote(vhost)} {shlex.quote(user)}"
        rights = (self.configure, self.write, self.read)
        yield " \\\n  ".join([f"rabbitmqctl set_permissions {where}", *map(_quoted, rights)])
        yield f"rabbitmqctl set_user_tags {shlex.quote(user)} {self.tag}".rstrip()


def roles(app: Celery) -> tuple[Role, ...]:
    """Return the minimal permissions of the four users for the app's settings."""
    prefix = app.settings.prefix
    queues = f"({'|'.join(_escaped(spec.name) for spec in app.settings.specs())})"
    return (
        _deploy(prefix, queues),
        _producer(prefix, queues),
        _worker(app, prefix, queues),
        _monitor(prefix),
    )


def vhost_of(app: Celery) -> str:
    """Return the virtual host of the app's ``broker_url``; of the first URL if there are several."""
    url = app.settings.broker_url.get_secret_value().split(";")[0]
    return parse_url(url)["virtual_host"] or "/"


def _deploy(prefix: str, queues: str) -> Role:
    """All of our names, and the default exchange, through which messages are moved."""
    ours = _ours(prefix, rf"(tasks|delay)(\..+)?|{queues}(\.dead)?")
    return Role(
        "deploy",
        "topology plan, apply, migrate, prune; queues peek, replay, move, discard",
        tag="management",
        configure=_pattern(ours),
        write=_pattern(ours, _DEFAULT_EXCHANGE),
        read=_pattern(ours),
    )


def _producer(prefix: str, queues: str) -> Role:
    """Publish to two exchanges; write on lanes and queues as well, or RabbitMQ 4.3 hides whether they exist."""
    return Role(
        "producer",
        "apply_async, publish_many, send",
        write=_pattern(_ours(prefix, f"tasks|delay|{_LANES}|{queues}")),
    )


def _worker(app: Celery, prefix: str, queues: str) -> Role:
    """Consume, retry, dead-letter and write crash records; declare its own remote-control mailboxes."""
    control = "|".join(_control(app))
    publish = _ours(prefix, rf"tasks(\.(dead|suspects|cancelled|paused))?|delay|{_LANES}|{queues}")
    return Role(
        "worker",
        "fleet start, celery worker; and what their tasks publish",
        configure=_pattern(control),
        write=_pattern(publish, control),
        read=_pattern(_ours(prefix, rf"{queues}|tasks\.(cancelled|suspects|paused)"), control),
    )


def _monitor(prefix: str) -> Role:
    purpose = "metrics serve: it reads the management API, and by AMQP which queues are paused"
    return Role("monitor", purpose, tag="monitoring", read=_pattern(_ours(prefix, r"tasks\.paused")))


def _control(app: Celery) -> Iterator[str]:
    """Yield patterns of the names that Celery's remote control and events declare, which contain hosts and ids.

    Each name that a kombu mailbox declares ends with the name of its exchange, after ``reply.`` or a node name.
    """
    conf = app.conf
    yield rf"(.+\.)?{_escaped(app.control.mailbox.exchange.name)}"
    yield _escaped(conf.event_exchange)
    yield rf"{_escaped(conf.event_queue_prefix)}\..+"


def _ours(prefix: str, names: str) -> str:
    return f"{_escaped(prefix)}({names})" if prefix else names


def _pattern(*choices: str) -> str:
    return f"^({'|'.join(choices)})$"


def _escaped(name: str) -> str:
    """Return a name as a pattern; the dot is the only special character that a name may contain."""
    return name.replace(".", r"\.")


def _quoted(pattern: str) -> str:
    return f"'{pattern}'"
