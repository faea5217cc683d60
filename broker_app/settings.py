"""The settings: one frozen model, from the file, the environment and the defaults, read by `load_settings`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as EnvironmentJsonError

from broker_app.errors import SettingsError
from broker_app.settings_faults import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    bad_json,
    sentences,
    unknown_keys,
    unknown_variables,
)
from queues import Backoff, DeadLetters, QueueSpec, QueueType, RoutingTable
from queues.delay import parse_lane
from queues.errors import InvalidQueueName, nearest
from queues.spec import check_queue_name

DEFAULT_CONFIG = Path("config/broker.toml")
"""Read if it is there and no other file is named; a file that is named must exist."""

BROKER_SCHEMES = ("amqp://", "amqps://")

MIN_HEARTBEAT_SECONDS = 4
"""A worker that starts listens for others until one second is silent (Celery's mingle), and the broker sends a
heartbeat every half of this time: at 2 s it listens until the broker gives it up."""

DEFAULT_DRAIN_SECONDS = 25.0
"""With the few seconds that a process takes to end it fits into the 30 s that Kubernetes waits before it kills."""

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
    drain_seconds: float = Field(
        DEFAULT_DRAIN_SECONDS,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="How long running tasks may take to finish when a worker is told to end; then they go back.",
    )

    @model_validator(mode="after")
    def _check_solo(self) -> FleetSettings:
        if self.pool == "solo" and self.concurrency != 1:
            raise ValueError(f'concurrency must be 1 with pool = "solo", got {self.concurrency}')
        return self


class RetrySettings(BaseModel):
    """How a task that raises is tried again, unless it retries by itself."""

    model_config = _FROZEN

    max_retries: int = Field(0, ge=0, le=1_000, description="Retries after the first run; 0 retries nothing.")
    first_seconds: _Positive = Field(1.0, description="The longest wait before the first retry.")
    factor: float = Field(
        2.0, ge=1, le=100, allow_inf_nan=False, description="What each further wait may be longer by."
    )
    longest_seconds: _Positive = Field(600.0, description="The longest wait before any retry.")
    jitter: bool = Field(
        default=True, description="Draw each wait, up to its longest, so that tasks do not come back together."
    )


class QueueSettings(BaseModel):
    """One queue: all that there is to say about it stands here."""

    model_config = _FROZEN

    type: QueueType = Field(QueueType.QUORUM, description="quorum (replicated) or classic (one node).")
    priorities: bool = Field(
        default=False, description="Whether messages may carry a priority 0..9, larger is more urgent."
    )
    prefetch: int = Field(1, ge=1, le=1_000, description="Messages reserved ahead for each slot of a worker.")
    delivery_limit: int = Field(
        5, ge=1, le=1_000, description="Starts in each of which its worker died, after which a task is poison."
    )
    longest_run_seconds: _Positive = Field(
        900.0, description="The longest run of a task here; below the broker's consumer time-out."
    )
    dead_letters: DeadLetters = Field(DeadLetters.KEEP, description="keep in <queue>.dead, or discard.")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="How its failed tasks are retried.")
    fleet: FleetSettings = Field(default_factory=FleetSettings, description="Its workers.")

    def backoff(self) -> Backoff:
        """Return the retries as `queues` knows them."""
        retry = self.retry
        return Backoff(
            retry.max_retries, retry.first_seconds, retry.factor, retry.longest_seconds, has_jitter=retry.jitter
        )


class PublishSettings(BaseModel):
    """How tasks are published."""

    model_config = _FROZEN

    timeout_seconds: _Positive = Field(
        10.0, description="Bound of one call: connecting, retrying and the broker's confirmation together."
    )
    connect_timeout_seconds: _Positive = Field(
        4.0, description="Bound of one attempt to connect; what is left of timeout_seconds bounds it too."
    )
    pool_limit: int = Field(10, ge=2, le=1_000, description="Connections that a process keeps for publishing.")
    spool: bool = Field(
        default=False, description="Whether tasks wait in state_dir while the broker cannot be reached."
    )
    spool_max_messages: int = Field(
        100_000, ge=1, description="Messages that the spool takes; a call beyond them fails."
    )
    spool_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Bytes that the spool takes; a call beyond them fails."
    )


class MetricsSettings(BaseModel):
    """What is counted, and how the server of the metrics answers."""

    model_config = _FROZEN

    enabled: bool = Field(default=True, description="Whether producers and workers count what they do.")
    max_tasks: int = Field(
        200, ge=1, le=2_000, description="Names of tasks that each process tells apart; the others are `other`."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address that `metrics serve` listens on.")
    port: int = Field(9480, ge=0, le=65_535, description="Its port; 0 takes any that is free.")
    username: str | None = Field(None, description="Whom it answers (HTTP basic); None is everybody.")
    password: SecretStr | None = Field(None, description="That user's password.")
    certificate: Path | None = Field(None, description="PEM file of its certificate chain; None is plain HTTP.")
    certificate_key: Path | None = Field(None, description="PEM file of its key; None is that of the certificate.")
    broker_cache_seconds: _Positive = Field(
        5.0, description="How long what was read from the broker is shown before it is read again."
    )
    broker_timeout_seconds: _Positive = Field(
        2.0, description="How long an answer waits for the broker; then it shows the last figures and their age."
    )

    @model_validator(mode="after")
    def _check_pairs(self) -> MetricsSettings:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password must be set both, or neither")
        if self.certificate_key is not None and self.certificate is None:
            raise ValueError("certificate_key needs a certificate beside it")
        return self


class TlsSettings(BaseModel):
    """How the broker's identity is verified with ``amqps://``, and which this client shows."""

    model_config = _FROZEN

    ca_certificates: Path | None = Field(
        None, description="PEM file of the authorities to trust; None is the system's."
    )
    certificate: Path | None = Field(
        None, description="PEM file of this client's certificate chain; None is none."
    )
    certificate_key: Path | None = Field(None, description="PEM file of its key; None is that of the certificate.")

    @field_validator("ca_certificates", "certificate", "certificate_key")
    @classmethod
    def _check_file(cls, file: Path | None) -> Path | None:
        if file is None:
            return None
        file = file.expanduser().absolute()
        if not os.access(file, os.R_OK) or not file.is_file():
            raise ValueError(f"must be a PEM file that can be read, got {file}")
        return file

    @model_validator(mode="after")
    def _check_pair(self) -> TlsSettings:
        if self.certificate_key is not None and self.certificate is None:
            raise ValueError("certificate_key needs a certificate beside it")
        return self


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
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "broker-app"


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
    broker_url_file: Path | None = Field(
        None, description="File that holds the broker_url, which it wins over: a secret that is mounted."
    )
    tls: TlsSettings = Field(default_factory=TlsSettings)
    management_url: SecretStr | None = Field(
        None, description="RabbitMQ's management API; None is port 15672 on the broker's host."
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
        10.0,
        ge=MIN_HEARTBEAT_SECONDS,
        le=600,
        allow_inf_nan=False,
        description="AMQP heartbeat in seconds; a dead peer is noticed within three times this time.",
    )
    publish: PublishSettings = Field(default_factory=PublishSettings)
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    common_lanes: tuple[str, ...] = Field(
        ("1s", "5s", "10s", "30s", "1m", "3m", "5m", "10m", "1h"),
        description="Delay lanes that `topology declare` makes ahead of time; others come when needed.",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _read_broker_url(cls, content: dict[str, Any]) -> dict[str, Any]:
        file = content.get("broker_url_file")
        if not isinstance(file, str | Path) or not str(file):
            return content
        try:
            return content | {"broker_url": Path(file).expanduser().read_text(encoding="utf-8").strip()}
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ValueError(f"broker_url_file: expected a file that can be read, got {file}: {reason}") from error

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        parts = [part.strip() for part in url.get_secret_value().split(";")]
        if not all(part.startswith(BROKER_SCHEMES) for part in parts):
            raise ValueError("must start with amqp:// or amqps://, e.g. amqp://user:password@host:5672/vhost")
        if len({part.partition(":")[0] for part in parts}) > 1:
            raise ValueError("must be amqps:// for all of its hosts, or for none: one way to verify serves all")
        _check_login(url)
        return url

    @field_validator("result_url")
    @classmethod
    def _check_result_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and "://" not in url.get_secret_value():
            raise ValueError("must be a URL, e.g. redis://host:6379/0, or left out for SQLite in state_dir")
        if url is not None:
            _check_login(url)
        return url

    @field_validator("queues")
    @classmethod
    def _check_some_queue(cls, queues: dict[str, QueueSettings]) -> dict[str, QueueSettings]:
        if not queues:
            raise ValueError("must declare at least one queue, e.g. [queues.default]")
        return queues

    @field_validator("state_dir", mode="before")
    @classmethod
    def _check_state_dir(cls, folder: object) -> object:
        if folder == "":
            raise ValueError("must be a folder, or left out for ~/.local/state/broker-app; got an empty text")
        return folder

    @field_validator("state_dir")
    @classmethod
    def _make_absolute(cls, folder: Path) -> Path:
        try:
            return folder.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(f"must be a folder whose home is known, got {folder}: {error}") from error

    @field_validator("common_lanes")
    @classmethod
    def _check_lanes(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            parse_lane(word)
        return words

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
                retry=queue.backoff(),
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
    base = {} if "queues" in content else {"queues": _dump_queues()}
    declared = (base | content)["queues"]
    problems = unknown_keys(content, Settings, "", str(file))
    problems += unknown_variables(os.environ, Settings, declared if isinstance(declared, dict) else ())
    try:
        settings = Settings(**(base | content))
    except ValidationError as error:
        problems += sentences(error, content, str(file) if file else "built-in defaults")
        if not any(item["loc"] == () for item in error.errors()):
            problems += _names_in(content, str(file))
        raise SettingsError(problems) from None
    except EnvironmentJsonError:
        raise SettingsError([*problems, *bad_json(os.environ, Settings), *_names_in(content, str(file))]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def broker_url_from_environment() -> str | None:
    """Return the broker that the caller names in the environment, None if none is named."""
    return os.environ.get(f"{ENV_PREFIX}BROKER_URL")


def config_path(path: Path | str | None = None) -> Path | None:
    """Return the file that `load_settings` reads, or None for the defaults alone.

    Raises:
        SettingsError: A file was named and is not there, or nobody may look whether it is.
    """
    named = path or os.environ.get(CONFIG_VARIABLE)
    if not named:
        return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
    where = "the argument config" if path else CONFIG_VARIABLE
    try:
        file = Path(named).expanduser()
        if file.is_file():
            return file.resolve()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError([f"{where}: expected a settings file, got {named}: {reason}"]) from error
    raise SettingsError([f"{where}: expected a settings file, got {named}, which is not there; correct the path"])


def _check_login(url: SecretStr) -> None:
    """Refuse a URL whose password would be taken for a host's port or a path, and be shown as such."""
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


def _bad_names(names: Collection[str], prefix: str) -> list[str]:
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
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{file}: expected a readable file, got: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            [f"{file}: expected TOML (a queue or key may stand there once), got: {error}"]
        ) from error


def _dump_queues() -> dict[str, Any]:
    return {name: queue.model_dump() for name, queue in _default_queues().items()}


__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "FleetSettings",
    "QueueSettings",
    "Settings",
    "config_path",
    "load_settings",
]
