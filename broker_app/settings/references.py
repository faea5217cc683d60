"""Checks of names and URLs in the settings: queues, routes, logins."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from broker_app.queues.errors import InvalidQueueName, nearest
from broker_app.queues.spec import check_queue_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pydantic import SecretStr


def check_login(url: SecretStr) -> None:
    """Refuse a URL whose password would be parsed as part of the port or the path, and thus be shown."""
    for part in url.get_secret_value().split(";"):
        split = urlsplit(part.strip())
        try:
            is_misread = "@" in split.path + split.query + split.fragment or ("," not in part and split.port == 0)
        except ValueError:
            is_misread = True
        if is_misread:
            raise ValueError(
                "must have a port of 1..65535, and special characters of user and password in the form %2F"
            )


def bad_names(names: Collection[str], prefix: str) -> list[str]:
    """Return a message for each invalid queue name."""
    problems = [
        f"queues.{name}: is queue {name.removeprefix(prefix)!r} with its prefix, {prefix!r}; rename one of them"
        for name in names
        if prefix and name.startswith(prefix) and name.removeprefix(prefix) in names
    ]
    for name in names:
        try:
            check_queue_name(name, prefix)
        except InvalidQueueName as error:
            problems.append(f"queues.{name}: {error}")
    return problems


def bad_references(queues: Iterable[str], default_queue: str, task_routes: Mapping[str, str]) -> list[str]:
    """Return a message for each reference to an undeclared queue."""
    names = list(queues)
    references = {"default_queue": default_queue} | {
        f"task_routes.{pattern!r}": queue for pattern, queue in task_routes.items()
    }
    return [
        f"{where}: must be one of the declared queues ({', '.join(names)}), got {queue!r}{nearest(queue, names)}"
        for where, queue in references.items()
        if queue not in names
    ]


def bad_helps(helps: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a message for each queue in ``helps`` that is undeclared, the helper itself, or listed twice.

    Args:
        helps: The queues that each queue's fleet helps, by queue.
    """
    return [
        f"queues.{name}.fleet.helps: must be other declared queues, each once "
        f"({', '.join(other for other in helps if other != name) or 'there is none'}), got {queue!r}"
        for name, helped in helps.items()
        for position, queue in enumerate(helped)
        if queue not in helps or queue == name or queue in helped[:position]
    ]
