"""The settings: one frozen model, from the file, the environment and the defaults, read by `load_settings`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from broker_app.errors import SettingsError
from queues import DeadLetters, QueueSpec, QueueType, RoutingTable
from queues.errors import InvalidQueueName, nearest
from queues.spec import check_queue_name

ENV_PREFIX = "BROKER_APP_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
DEFAULT_CONFIG = Path("config/broker.toml")
"""Read if it is there and no other file is named; a file that is named must exist."""

BROKER_SCHEMES = ("amqp://", "amqps://")

_Positive = Annotated[float, Field(gt=0, le=365 * 86_400, allow_inf_nan=False)]
_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class FleetSettings(BaseModel):
    """The workers of one queue, run by `celery multi`."""

    model_config = _FROZEN

    nodes: int = Field(1, ge=0, le=1_000, description="Worker processes on this host; 0 runs none.")
    pool: Literal["prefork", "threads", "solo", "gevent"] = Field("threads", description="Celery's -P.")
    concurrency: int = Field(
        8, ge=1, le=10_000, description="Celery's -c: tasks at once in each node; solo knows only 1."
    )

    @model_validator(mode="after")
    def _check_solo(self) -> FleetSettings:
        if self.pool == "solo" and self.concurrency != 1:
            raise ValueError(f'concurrency must be 1 with pool = "solo", got {self.concurrency}')
        return self


class QueueSettings(BaseModel):
    """One queue: all that there is to say about it stands here."""

    model_config = _FROZEN

    type: QueueType = Field(QueueType.QUORUM, description="quorum (replicated) or classic (one node).")
    priorities: bool = Field(
        default=False, description="Whether messages may carry a priority 0..9, larger is more urgent."
    )
    prefetch: int = Field(1, ge=1, le=1_000, description="Messages reserved ahead for each slot of a worker.")
    delivery_limit: int = Field(5, ge=1, le=1_000, description="Deliveries after which a message is poison.")
    longest_run_seconds: _Positive = Field(
        900.0, description="The longest run of a task here; below the broker's consumer time-out."
    )
    dead_letters: DeadLetters = Field(DeadLetters.KEEP, description="keep in <queue>.dead, or discard.")
    fleet: FleetSettings = Field(default_factory=FleetSettings, description="Its workers.")


class PublishSettings(BaseModel):
    """How tasks are published."""

    model_config = _FROZEN

    timeout_seconds: _Positive = Field(
        10.0, description="Bound of one call: connecting, retrying and the broker's confirmation together."
    )
    connect_timeout_seconds: _Positive = Field(
        4.0, description="Bound of one attempt to connect; less than timeout_seconds."
    )
    pool_limit: int = Field(10, ge=2, le=1_000, description="Connections that a process keeps for publishing.")


class FetchSettings(BaseModel):
    """Limits of the task `broker_app.tasks.fetch`."""

    model_config = _FROZEN

    timeout_seconds: _Positive = Field(30.0, description="Bound of one whole download.")
    max_bytes: int = Field(100 * 1024 * 1024, ge=1, description="Bound of one body, in bytes.")


def _default_queues() -> dict[str, QueueSettings]:
    return {
        "default": QueueSettings(),
        "lopri": QueueSettings(fleet=FleetSettings(concurrency=32)),
    }


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "broker-app"


class Settings(BaseSettings):
    """Everything that can be set. Frozen: after start-up settings travel as arguments."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        validate_default=True,
    )

    broker_url: SecretStr = Field(
        SecretStr("amqp://guest:guest@127.0.0.1:5672//"),
        description="amqp:// or amqps://; several for fail-over, split by ';'.",
    )
    result_url: SecretStr | None = Field(
        None, description="Celery result backend; None is SQLite (WAL) in state_dir."
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Folder of pid files, logs and results; made on first use, by its owner only.",
    )
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$", description="Put before every name on a shared broker.")
    default_queue: str = Field("default", description="Where a task goes that names no queue.")
    result_expires_seconds: _Positive = Field(86_400.0, description="How long a result is kept.")
    heartbeat_seconds: float = Field(
        10.0, ge=1, le=600, description="AMQP heartbeat; a dead peer is noticed within twice this time."
    )
    publish: PublishSettings = Field(default_factory=PublishSettings)
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    task_routes: dict[str, str] = Field(
        default_factory=dict, description="Queue by task name or pattern (reports.*)."
    )
    queues: dict[str, QueueSettings] = Field(
        default_factory=_default_queues,
        description="By name. A file that declares queues declares all of them.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which `load_settings` hands in as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        if not all(part.strip().startswith(BROKER_SCHEMES) for part in url.get_secret_value().split(";")):
            raise ValueError("must start with amqp:// or amqps://, e.g. amqp://user:password@host:5672/vhost")
        return url

    @field_validator("queues")
    @classmethod
    def _check_some_queue(cls, queues: dict[str, QueueSettings]) -> dict[str, QueueSettings]:
        if not queues:
            raise ValueError("must declare at least one queue, e.g. [queues.default]")
        return queues

    @field_validator("state_dir")
    @classmethod
    def _make_absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @model_validator(mode="after")
    def _check_names(self) -> Settings:
        problems = _bad_names(self.queues, self.prefix)
        problems += _bad_references(self.queues, self.default_queue, self.task_routes)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def specs(self) -> tuple[QueueSpec, ...]:
        """Return the queues as `queues` knows them, in their order."""
        return tuple(
            QueueSpec(
                name=name,
                prefix=self.prefix,
                type=queue.type,
                has_priorities=queue.priorities,
                dead_letters=queue.dead_letters,
                delivery_limit=queue.delivery_limit,
            )
            for name, queue in self.queues.items()
        )

    def routing_table(self) -> RoutingTable:
        """Return where tasks go."""
        queues = {spec.name: spec for spec in self.specs()}
        return RoutingTable(queues=queues, default=self.default_queue, patterns=self.task_routes)


def load_settings(path: Path | str | None = None) -> Settings:
    """Read the settings once: the environment over the file over the defaults.

    Args:
        path: The file; None for ``BROKER_APP_CONFIG``, or `DEFAULT_CONFIG` in the current folder if it
            is there, or no file at all.

    Raises:
        SettingsError: With every fault at once, each with its place; values of secrets are not shown.
    """
    file = config_path(path)
    content = {} if file is None else _read_toml(file)
    problems = [*_unknown_keys(content, Settings, "", str(file)), *_unknown_variables(os.environ)]
    base = {} if "queues" in content else {"queues": _dump_queues()}
    try:
        settings = Settings(**(base | content))
    except ValidationError as error:
        problems += _sentences(error, content, str(file) if file else "built-in defaults")
        if not any(item["loc"] == () for item in error.errors()):
            problems += _names_in(content, str(file))
        raise SettingsError(problems) from None
    if problems:
        raise SettingsError(problems)
    return settings


def config_path(path: Path | str | None = None) -> Path | None:
    """Return the file that `load_settings` reads, or None for the defaults alone.

    Raises:
        SettingsError: A file was named and is not there.
    """
    named = path or os.environ.get(CONFIG_VARIABLE)
    if not named:
        return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
    file = Path(named).expanduser()
    if not file.is_file():
        where = "the argument config" if path else CONFIG_VARIABLE
        raise SettingsError(
            [f"{where}: expected a settings file, got {named}, which is not there; correct the path"]
        )
    return file.resolve()


def _bad_names(names: Iterable[str], prefix: str) -> list[str]:
    problems = []
    for name in names:
        try:
            check_queue_name(name, prefix)
        except InvalidQueueName as error:
            problems.append(f"queues.{name}: {error}")
    return problems


def _bad_references(queues: Iterable[str], default_queue: str, task_routes: Mapping[str, str]) -> list[str]:
    names = list(queues)
    references = {"default_queue": default_queue} | {
        f"task_routes.{pattern!r}": queue for pattern, queue in task_routes.items()
    }
    return [
        f"{where}: must be one of the declared queues ({', '.join(names)}), got {queue!r}{nearest(queue, names)}"
        for where, queue in references.items()
        if queue not in names
    ]


def _names_in(content: Mapping[str, Any], file: str) -> list[str]:
    """Judge the names of a file whose fields are wrong: pydantic stops before its model-wide checks."""
    queues, routes = content.get("queues", _default_queues()), content.get("task_routes", {})
    if not isinstance(queues, Mapping) or not isinstance(routes, Mapping):
        return []
    default_queue = str(content.get("default_queue", Settings.model_fields["default_queue"].default))
    routes = {pattern: str(queue) for pattern, queue in routes.items()}
    problems = [
        *_bad_names(queues, str(content.get("prefix", ""))),
        *_bad_references(queues, default_queue, routes),
    ]
    return [f"{file}: {problem}" for problem in problems]


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{file}: expected a readable file, got: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            [f"{file}: expected TOML (a queue or key may stand there once), got: {error}"]
        ) from error


def _dump_queues() -> dict[str, Any]:
    return {name: queue.model_dump() for name, queue in _default_queues().items()}


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Refuse ``BROKER_APP_…`` names that no setting has: pydantic-settings passes them over."""
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    names = [name for name in environment if name.upper().startswith(ENV_PREFIX) and name != CONFIG_VARIABLE]
    return [
        f"environment: {name} is not a setting{nearest(name.upper().split('__')[0], known)}; unset or correct it"
        for name in names
        if name.upper().split("__")[0] not in known
    ]


def _unknown_keys(content: Mapping[str, Any], model: type[BaseModel], path: str, file: str) -> list[str]:
    """Name each key that the model does not have, with the nearest that it has."""
    problems = []
    for key, value in content.items():
        field = model.model_fields.get(key)
        place = f"{path}{key}"
        if field is None:
            problems.append(
                f"{file}: {place} is not a setting{nearest(key, model.model_fields)}; correct or delete it"
            )
        elif place == "queues" and isinstance(value, dict):
            for name, queue in value.items():
                if isinstance(queue, dict):
                    problems += _unknown_keys(queue, QueueSettings, f"queues.{name}.", file)
        elif (
            isinstance(value, dict)
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            problems += _unknown_keys(value, field.annotation, f"{place}.", file)
    return problems


_MESSAGES = {
    "extra_forbidden": "is not a setting; unset or correct it",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
}
"""Plain words for pydantic's; its others ("Input should be 'quorum' or 'classic'") are plain already."""


def _sentences(error: ValidationError, content: Mapping[str, Any], file: str) -> list[str]:
    """Turn pydantic's report into our lines: where, what was expected, what came."""
    lines = []
    for item in error.errors(include_url=False):
        if item["type"] == "extra_forbidden" and _lookup(content, item["loc"]) is not None:
            continue  # told by _unknown_keys, with the nearest key
        place = ".".join(str(part) for part in item["loc"])
        message = _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
        lines += [
            f"{_source(item['loc'], file)}: {place + ': ' if place else ''}{line}{_shown(item)}"
            for line in message.split("\n")
        ]
    return lines


def _source(location: tuple[int | str, ...], file: str) -> str:
    """Name the environment variable that a wrong value came from, or the file."""
    variable = ENV_PREFIX + "__".join(str(part).upper() for part in location)
    held = {name.upper() for name in os.environ}
    return f"environment ({variable})" if location and variable in held else file


def _shown(item: Any) -> str:
    """Return ``, got 900`` for plain values of settings that hold no secret."""
    value = item.get("input")
    if item["type"] == "value_error" or any("url" in str(part) for part in item["loc"]):
        return ""
    return f", got {value!r}" if isinstance(value, (str, int, float, bool)) else ""


def _lookup(content: Any, location: tuple[int | str, ...]) -> Any:
    for part in location:
        if not isinstance(content, Mapping) or part not in content:
            return None
        content = content[part]
    return content


__all__ = ["FleetSettings", "QueueSettings", "Settings", "config_path", "load_settings"]
