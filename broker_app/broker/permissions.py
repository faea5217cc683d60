r"""The least rights on the broker of four users: who deploys, who publishes, who works, and who watches.

RabbitMQ's rights are patterns of names: what may be declared and deleted (configure), published to and bound
(write), consumed and bound from (read) (rabbitmq.com/docs/access-control). Every name here is made from the
settings, so a right is as narrow as they are: with the queues `default` and `lopri` and no prefix a producer may
write to ``^(tasks|delay|…|default|lopri)$``. Rights to routing keys would add nothing: what a producer may publish
to leads to the queues of the settings and nowhere else.
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
"""The pattern that no name of a queue or an exchange fits."""

_DEFAULT_EXCHANGE = r"amq\.default"
"""What RabbitMQ calls the exchange without a name when it judges a right to it."""

_LANES = rf"delay\.\d+({'|'.join(unit.name for unit in reversed(UNITS))})"


@dataclass(frozen=True, slots=True)
class Role:
    """What one user may do.

    Attributes:
        name: deploy, producer, worker or monitor.
        purpose: What runs as that user.
        tag: What it may do in the management API: ``management``, ``monitoring``, or nothing.
        configure: Pattern of what it may declare and delete.
        write: Pattern of what it may publish to, and bind.
        read: Pattern of what it may consume, and bind from.
    """

    name: str
    purpose: str
    tag: str = ""
    configure: str = NOTHING
    write: str = NOTHING
    read: str = NOTHING

    def commands(self, user: str, vhost: str) -> Iterator[str]:
        """Yield the commands for a shell that give a user these rights: configure, write, read.

        Args:
            user: Who has been made before, by ``rabbitmqctl add_user``.
            vhost: The virtual host.
        """
        where = f"-p {shlex.quote(vhost)} {shlex.quote(user)}"
        rights = (self.configure, self.write, self.read)
        yield " \\\n  ".join([f"rabbitmqctl set_permissions {where}", *map(_quoted, rights)])
        yield f"rabbitmqctl set_user_tags {shlex.quote(user)} {self.tag}".rstrip()


def roles(app: Celery) -> tuple[Role, ...]:
    """Return what each of the four users needs for the app's settings, and no more."""
    prefix = app.settings.prefix
    queues = f"({'|'.join(_escaped(spec.name) for spec in app.settings.specs())})"
    return (
        _deploy(prefix, queues),
        _producer(prefix, queues),
        _worker(app, prefix, queues),
        _monitor(prefix),
    )


def vhost_of(app: Celery) -> str:
    """Return the virtual host of the app's ``broker_url``; of several the first one's."""
    url = app.settings.broker_url.get_secret_value().split(";")[0]
    return parse_url(url)["virtual_host"] or "/"


def _deploy(prefix: str, queues: str) -> Role:
    """Everything of ours; the default exchange, by which messages are moved."""
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
    """Publish by two exchanges; see whether lanes and queues are there, which RabbitMQ 4.3 tells nobody else."""
    return Role(
        "producer",
        "apply_async, publish_many, send",
        write=_pattern(_ours(prefix, f"tasks|delay|{_LANES}|{queues}")),
    )


def _worker(app: Celery, prefix: str, queues: str) -> Role:
    """Consume; retry, bury and tell of suspects; be controlled by mailboxes that it declares itself."""
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
    """Yield patterns of what Celery's remote control and events declare: hosts and ids stand in the queues' names.

    All that kombu's mailboxes declare ends with the name of their exchange; before it stands ``reply.`` or a node.
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
    """Return a name as a pattern: of all that names may hold only the dot means something else."""
    return name.replace(".", r"\.")


def _quoted(pattern: str) -> str:
    return f"'{pattern}'"
