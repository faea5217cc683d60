"""Call requests: parsed from JSON lines, and checked before they are published.

Nothing here touches the broker. A `CallError` states the expected and the given value; the caller adds the
location (file and line).
"""

from __future__ import annotations

import codecs
import difflib
import inspect
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from broker_app.errors import CallError, shortened
from broker_app.queues.delay import MAX_DELAY_SECONDS
from broker_app.queues.errors import nearest
from broker_app.queues.spec import MAX_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from celery import Task

MAX_LINE_BYTES = 16 * 1024 * 1024
"""RabbitMQ's default message size limit (rabbitmq.com/docs/configure, max_message_size: 16 MiB since 4.0)."""


MAX_SHOWN_TASKS = 10
"""If no similar task exists, the error lists the known tasks, provided there are at most this many."""


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One task call, from the command line or a file.

    Attributes:
        task: The task's name.
        args: Positional arguments, JSON values.
        kwargs: Keyword arguments, JSON values.
        queue: Queue name; None for the task's own or the one from the settings.
        countdown: Delay in seconds, at least 0, may be fractional; None for none.
        eta: Due time instead of a countdown; in the app's time zone if it has none.
        priority: 0..9, larger is more urgent; only for queues with priorities.
        expires: Seconds from now after which the task no longer starts; None for never.
        id: The task id, at most `MAX_ID_BYTES`; None for a new one.
    """

    task: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    queue: str | None = None
    countdown: float | None = None
    eta: datetime | None = None
    priority: int | None = None
    expires: float | None = None
    id: str | None = None

    def options(self) -> dict[str, Any]:
        """Return the given options as keyword arguments of Celery's ``apply_async``."""
        said = {
            "queue": self.queue,
            "countdown": self.countdown,
            "eta": self.eta,
            "priority": self.priority,
            "expires": self.expires,
            "task_id": self.id,
        }
        return {name: value for name, value in said.items() if value is not None}


_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_call(record: object) -> CallRequest:
    """Return the call that a JSON object describes; a null value counts as a missing key.

    Raises:
        CallError: Not an object, an unknown key (with the most similar one), a value of the wrong type, no
            ``task``, or both ``countdown`` and ``eta``.
    """
    if not isinstance(record, dict):
        raise CallError(f'expected an object such as {{"task": "…", "args": []}}, got {_kind(record)}')
    for key, value in record.items():
        if key not in _FIELDS:
            raise CallError(f"unknown key {key!r}{nearest(key, _FIELDS)}; known: {', '.join(_FIELDS)}")
        is_right, expected = _FIELDS[key]
        if value is not None and not is_right(value):
            raise CallError(f"{key}: expected {expected}, got {_shown(value)}")
    said = {key: value for key, value in record.items() if value is not None}
    if "task" not in said:
        raise CallError("task: expected a task's name, got none")
    if "countdown" in said and "eta" in said:
        raise CallError("expected a countdown or an eta, got both; leave one of them out")
    if "eta" in said:
        said["eta"] = datetime.fromisoformat(said["eta"])
    return CallRequest(**said)


def read_calls(stream: BinaryIO) -> Iterator[tuple[int, CallRequest | CallError]]:
    """Read JSON lines one by one, so that memory usage does not depend on the file size.

    Args:
        stream: UTF-8 bytes; a leading byte order mark and blank lines are skipped.

    Yields:
        The line number, from 1, and the call or its error.
    """
    for number, line in enumerate(_lines(stream), 1):
        content = line.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else line.strip()
        if content:
            yield number, _read_call(content)


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: Invalid JSON, or a value that exceeds Python's limits (depth, digits).
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_call(call: CallRequest, tasks: Mapping[str, Task], *, allow_unregistered: bool = False) -> None:
    """Check a call against the app's tasks.

    Args:
        call: The call.
        tasks: Tasks by name, as ``app.tasks``.
        allow_unregistered: Whether to accept tasks that only the workers know.

    Raises:
        CallError: An unknown task, with the most similar one, or arguments that do not match its signature.
    """
    task = tasks.get(call.task)
    if task is None:
        if allow_unregistered:
            return
        is_built_in = all(name.startswith(("celery.", "broker_app.")) for name in tasks)
        raise CallError(
            f"task {call.task!r}: expected one of the app's tasks{_nearest_task(call.task, tasks)}; correct the "
            f"name, {'name your own app with `broker-app -A`, ' if is_built_in else ''}or use --unregistered "
            f"for a task that only the workers know"
        )
    header = getattr(task, "__header__", None)  # set by Celery to check calls; typing=False disables the check
    if not task.typing or header is None:
        return
    try:
        header(*call.args, **call.kwargs)
    except TypeError:
        raise CallError(f"expected {_signature(task)}, got {_arguments(call)}") from None


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield each line; a line over the limit is cut one byte after it, so memory stays bounded."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)


def _read_call(line: bytes) -> CallRequest | CallError:
    if len(line) > MAX_LINE_BYTES:
        return CallError(f"expected a line of at most {MAX_LINE_BYTES} bytes, got a longer one")
    try:
        return parse_call(_decode(line))
    except CallError as error:
        return error


def _decode(line: bytes) -> Any:
    try:
        return parse_json(line.decode())
    except UnicodeDecodeError as error:
        raise CallError(f"expected UTF-8, got byte 0x{line[error.start]:02x} at {error.start + 1}") from None
    except ValueError as error:
        raise CallError(f"expected a JSON object, got {shortened(line.decode())!r} ({error})") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # Python would accept NaN and Infinity


def _is_text(value: object) -> bool:
    """Return whether a value is a non-blank string without lone surrogates, which UTF-8 cannot encode."""
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _is_text(value) and len(value.encode()) <= MAX_ID_BYTES


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < MAX_DELAY_SECONDS + 1


def _is_positive(value: object) -> bool:
    return _is_seconds(value) and value != 0


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (_is_text, "a task's name"),
    "args": (lambda value: isinstance(value, list), "a list"),
    "kwargs": (lambda value: isinstance(value, dict), "an object"),
    "queue": (_is_text, "a queue's name"),
    "countdown": (_is_seconds, f"a number of seconds, 0..{MAX_DELAY_SECONDS}"),
    "eta": (_is_moment, "an ISO 8601 moment such as 2030-01-31T09:00:00+00:00"),
    "priority": (_is_integer, "an integer 0..9 (larger is more urgent)"),
    "expires": (_is_positive, f"a number of seconds above 0, up to {MAX_DELAY_SECONDS}"),
    "id": (_is_id, f"a string of 1..{MAX_ID_BYTES} bytes"),
}
"""The keys of a call, each with a check of its value and a description of valid values."""


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return shortened(text.encode(errors="backslashreplace").decode())


def _kind(value: object) -> str:
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _nearest_task(name: str, tasks: Iterable[str]) -> str:
    """Return a hint: the most similar task, by full name or by its last part, or all tasks if there are few."""
    names = sorted(task for task in tasks if not task.startswith("celery."))
    if hint := nearest(name, names):
        return hint
    by_word = {known.rpartition(".")[2]: known for known in names}
    words = difflib.get_close_matches(name.rpartition(".")[2], by_word, n=1)
    if words:
        return f" (did you mean {by_word[words[0]]!r}?)"
    return f" ({', '.join(names)})" if len(names) <= MAX_SHOWN_TASKS else ""


def _signature(task: Task) -> str:
    """Return the task's signature: ``broker_app.tasks.add(x, y)``."""
    signature = inspect.signature(task.run, follow_wrapped=False)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return f"{task.name}{signature.replace(parameters=bare, return_annotation=signature.empty)}"


def _arguments(call: CallRequest) -> str:
    """Describe the given arguments: ``1 positional argument and 'z'``."""
    count = len(call.args)
    positional = f"{count} positional argument{'' if count == 1 else 's'}"
    return f"{positional} and {', '.join(map(repr, call.kwargs))}" if call.kwargs else positional
