"""Error messages for the settings file and the environment: location, expected value, actual value, cure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from broker_app.queues.errors import nearest

if TYPE_CHECKING:
    from pydantic import ValidationError

ENV_PREFIX = "BROKER_APP_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

_MESSAGES = {
    "extra_forbidden": "is not a setting; unset or correct it",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "missing": "is missing; set it",
}
"""Messages by pydantic's error type; others keep its text: ``Input should be 'quorum' or 'classic'``."""


def unknown_keys(content: Mapping[str, Any], model: type[BaseModel], path: str, file: str) -> list[str]:
    """Return a message for each key that the model does not have, with the closest known key.

    Args:
        content: The file, or one of its tables.
        model: The model of ``content``; a field whose type is a dictionary of models is a table of tables.
        path: Position of ``content`` in the file, with a trailing dot; empty for the file itself.
        file: The file's name, for the messages.
    """
    problems = []
    for key, value in content.items():
        field = model.model_fields.get(key)
        if field is None:
            hint = nearest(key, model.model_fields)
            problems.append(f"{file}: {path}{key} is not a setting{hint}; correct or delete it")
        elif isinstance(value, dict):
            for place, table, kind in _tables(key, value, field.annotation):
                problems += unknown_keys(table, kind, f"{path}{place}.", file)
    return problems


def unknown_variables(environment: Mapping[str, str], model: type[BaseModel], queues: Iterable[str]) -> list[str]:
    """Return a message for each ``BROKER_APP_…`` variable that is not a setting; pydantic-settings ignores them.

    The environment can change a queue's settings but not declare a queue, because a typo in the name would
    declare another one.
    """
    known, names = [ENV_PREFIX + field.upper() for field in model.model_fields], list(queues)
    problems = []
    for name in environment:
        field, _, rest = name.upper().partition("__")
        if not field.startswith(ENV_PREFIX) or name == CONFIG_VARIABLE:
            continue
        if field not in known:
            problems.append(f"environment: {name} is not a setting{nearest(field, known)}; unset or correct it")
        elif field == f"{ENV_PREFIX}QUEUES" and rest and (queue := rest.split("__")[0].lower()) not in names:
            problems.append(
                f"environment: {name}: expected one of the declared queues ({', '.join(names)}), got {queue!r}"
                f"{nearest(queue, names)}; declare it in the settings file or correct the name"
            )
    return problems


def bad_json(environment: Mapping[str, str], model: type[BaseModel]) -> list[str]:
    """Return a message for each variable that must be JSON, for a table or a list, but is not."""
    tables = {
        ENV_PREFIX + name.upper() for name, field in model.model_fields.items() if _is_table(field.annotation)
    }
    problems = []
    for name, text in environment.items():
        if name.upper() in tables:
            try:
                json.loads(text)
            except ValueError as error:
                problems.append(f"environment ({name}): expected JSON, got: {error}; correct or unset it")
    return problems


def sentences(error: ValidationError, content: Mapping[str, Any], file: str) -> list[str]:
    """Turn pydantic's errors into messages, except for unknown keys, which `unknown_keys` reports."""
    lines = []
    for item in error.errors(include_url=False):
        location = item["loc"]
        if item["type"] == "extra_forbidden" and _lookup(content, location) is not None:
            continue
        place = ".".join(str(part) for part in location)
        message = _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
        message = message.replace("Input should be", "must be")
        for line in message.split("\n"):
            source = _source(location or tuple(re.findall(r"\w+", line)[:1]), file)
            lines.append(f"{source}: {place + ': ' if place else ''}{line}{_shown(item)}")
    return lines


def _tables(
    key: str, value: dict[str, Any], annotation: Any
) -> list[tuple[str, Mapping[str, Any], type[BaseModel]]]:
    """Return the tables under a key as (path, content, model)."""
    if _is_model(annotation):
        return [(key, value, annotation)]
    kinds = [kind for kind in getattr(annotation, "__args__", ()) if _is_model(kind)]
    return [
        (f"{key}.{name}", table, kind)
        for kind in kinds
        for name, table in value.items()
        if isinstance(table, dict)
    ]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_table(annotation: Any) -> bool:
    return _is_model(annotation) or getattr(annotation, "__origin__", None) in {dict, list, tuple}


def _source(location: tuple[int | str, ...], file: str) -> str:
    """Return the environment variable that set the value or the table around it; otherwise the file."""
    held = {name.upper() for name in os.environ}
    for end in range(len(location), 0, -1):
        variable = ENV_PREFIX + "__".join(str(part).upper() for part in location[:end])
        if variable in held:
            return f"environment ({variable})"
    return file


def _shown(item: Any) -> str:
    """Return ``, got 900`` for a plain value; empty for unknown settings and for secrets."""
    value = item.get("input")
    is_secret = any("url" in str(part) or part == "environment" for part in item["loc"])
    if item["type"] in {"value_error", "extra_forbidden"} or is_secret:
        return ""
    return f", got {value!r}" if isinstance(value, (str, int, float, bool)) else ""


def _lookup(content: Any, location: tuple[int | str, ...]) -> Any:
    for part in location:
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return content
