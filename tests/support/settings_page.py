"""docs/reference/settings.md, made by ``python tests/support/settings_page.py`` from the settings model."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr

from broker_app.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

_INTRODUCTION = """\
# Settings

Each setting takes the first value found in: the command line, the environment, the settings file, the default
below. The file is the one named by `BROKER_APP_CONFIG`, otherwise `config/broker.toml` below the current
folder; [the shipped one](../../config/broker.toml) shows every setting. `broker-app check` reports all errors of
both; unknown keys and variables are errors.

An environment variable is `BROKER_APP_` and the setting's name in capitals, with `__` between a table and its key:
`BROKER_APP_BROKER_URL`, `BROKER_APP_METRICS__PORT`. Lists and tables are JSON. Queues can only be declared in the
file, but the environment can change their settings: `BROKER_APP_QUEUES__LOPRI__FLEET__CONCURRENCY=64`.

In Celery, `CELERY_BROKER_URL`, `CELERY_BROKER_READ_URL`, `CELERY_BROKER_WRITE_URL` and `CELERY_RESULT_BACKEND`
take precedence over everything else. One that differs from the setting is refused, so that a leftover variable
cannot send tasks to another broker. The options `-b` and `--result-backend` of `celery` take precedence.
"""

_QUEUES = """
## Queues

A file that declares queues must declare all of them. If it declares none, the queues are `default`, with
`wait_objective_seconds = 5.0`, and `lopri`, with `wait_objective_seconds = 600.0` and `concurrency = 32`.
"""

_TYPES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "text",
}


def page() -> str:
    """Return the page."""
    parts = [_INTRODUCTION, *_table(Settings, (), "At the top"), _QUEUES]
    queue = Settings.model_fields["queues"].annotation
    return "\n".join([*parts, *_table(get_args(queue)[1], ("queues", "NAME"), "")]).rstrip() + "\n"


def _table(model: type[BaseModel], path: tuple[str, ...], title: str) -> list[str]:
    """Return the lines of a model's table, and of the tables below it."""
    heading = title or f"`[{'.'.join(path)}]`"
    lines = [f"## {heading}" if len(path) < 2 else f"### {heading}", ""]
    variable = ENV_PREFIX + "".join(f"{part.upper()}__" for part in path)
    lines += [f"In the environment: `{variable}…`", ""] if path else []
    lines += ["| setting | type | default | what it does |", "|---|---|---|---|"]
    deeper: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            deeper += ["", *_table(kind, (*path, name), "")]
        elif name != "queues":
            lines.append(_row(name, field))
    return [*lines, *deeper]


def _row(name: str, field: FieldInfo) -> str:
    description = str(field.description).replace("<", "&lt;")
    cells = [f"`{name}`", _type(field), _default(field), description]
    return f"| {' | '.join(cells)} |"


def _type(field: FieldInfo) -> str:
    """Return the type in words, with its limits."""
    kind = field.annotation
    if get_origin(kind) in (UnionType, Union):
        kind, *others = get_args(kind)
        if get_origin(kind) is Annotated:
            (choice,), (number, limits) = get_args(others[0]), get_args(kind)
            return f"`{choice}`, or {' '.join([_TYPES[number], *_limits(limits)])}"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    if get_origin(kind) is tuple:
        return "list of texts"
    if get_origin(kind) is dict:
        return "table of texts"
    assert isinstance(kind, type)
    return " ".join([_TYPES[kind], *_limits(field)])


def _limits(field: FieldInfo) -> list[str]:
    found = []
    for limit in field.metadata:
        match limit:
            case Ge(ge=bound):
                found.append(f"from {bound:,}")
            case Gt(gt=bound):
                found.append(f"above {bound:,}")
            case Le(le=bound):
                found.append(f"to {bound:,}")
            case _ if pattern := getattr(limit, "pattern", None):
                found.append(f"of the form `{pattern}`")
            case _:
                pass  # what has no bound: allow_inf_nan
    return found


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()  # a default is no secret
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "none"
    return f"`[{', '.join(map(_toml, value))}]`" if isinstance(value, tuple) else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """Return a value in the syntax of the settings file."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, (str, Path)) else str(value)


if __name__ == "__main__":
    os.environ.pop("XDG_STATE_HOME", None)  # the default of state_dir that everybody else has
    PAGE.write_text(page(), encoding="utf-8")
