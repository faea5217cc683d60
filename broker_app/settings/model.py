"""The settings model: every setting with its type, default and description."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from broker_app.queues import QueueSpec, RoutingTable
from broker_app.queues.delay import parse_lane
from broker_app.settings.base import Positive
from broker_app.settings.fleet import FleetSettings
from broker_app.settings.metrics import MetricsSettings
from broker_app.settings.problems import ENV_PREFIX
from broker_app.settings.publish import FetchSettings, PublishSettings, TlsSettings
from broker_app.settings.queue import QueueSettings
from broker_app.settings.references import bad_helps, bad_names, bad_references, check_login

BROKER_SCHEMES = ("amqp://", "amqps://")

MIN_HEARTBEAT_SECONDS = 4
"""Shortest heartbeat. A starting worker waits for replies until 1 s passes in silence (Celery's mingle), and
the broker sends a heartbeat every half interval: at 2 s the worker would wait until the broker disconnects it."""


def default_queues() -> dict[str, QueueSettings]:
    """Return the queues that are used if the file declares none."""
    return {
        "default": QueueSettings(wait_objective_seconds=5.0),
        "lopri": QueueSettings(wait_objective_seconds=600.0, fleet=FleetSettings(concurrency=32)),
    }


def _default_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "broker-app"


def read_broker_url(file: Path | str) -> str:
    """Return the URL in a ``broker_url_file``.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"broker_url_file: expected a readable file, got {file}: {reason}") from error


def check_broker_url(url: str) -> None:
    """Refuse an invalid broker URL.

    Raises:
        ValueError: The URL is invalid; the text gives the reason, but not the URL.
    """
    parts = [part.strip() for part in url.split(";")]
    if not all(part.startswith(BROKER_SCHEMES) for part in parts):
        raise ValueError("must start with amqp:// or amqps://, e.g. amqp://user:password@host:5672/vhost")
    if len({part.partition(":")[0] for part in parts}) > 1:
        raise ValueError("must use amqps:// for all hosts or for none: the [tls] settings apply to all of them")
    check_login(SecretStr(url))


class Settings(BaseSettings):
    """All settings. Frozen: after start-up, settings are passed as arguments."""

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
        description="amqp:// or amqps:// URL; several for failover, separated by ';'.",
    )
    broker_url_file: Path | None = Field(
        None,
        description="File with the URL, e.g. a mounted secret; overrides broker_url, read for each connection.",
    )
    tls: TlsSettings = Field(default_factory=TlsSettings)
    management_url: SecretStr | None = Field(
        None, description="URL of RabbitMQ's management API; None means port 15672 on the broker's host."
    )
    result_url: SecretStr | None = Field(
        None, description="URL of Celery's result backend; None means SQLite (WAL) in state_dir."
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Folder for pid files, logs and results; created on first use, accessible to its owner only.",
    )
    prefix: str = Field("", pattern=r"^[A-Za-z0-9_.-]*$", description="Prefix of every name on a shared broker.")
    default_queue: str = Field("default", description="Queue for tasks that name no queue and match no route.")
    result_expires_seconds: Positive = Field(86_400.0, description="Time to keep a result.")
    heartbeat_seconds: float = Field(
        10.0,
        ge=MIN_HEARTBEAT_SECONDS,
        le=600,
        allow_inf_nan=False,
        description="AMQP heartbeat interval; a dead peer is detected within three intervals.",
    )
    blocked_loop_seconds: float = Field(
        30.0,
        ge=2,
        le=86_400,
        allow_inf_nan=False,
        description="Time for which a coroutine may block the event loop before the live probe fails.",
    )
    publish: PublishSettings = Field(default_factory=PublishSettings)
    fetch: FetchSettings = Field(default_factory=FetchSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    common_lanes: tuple[str, ...] = Field(
        ("1s", "5s", "10s", "30s", "1m", "3m", "5m", "10m", "1h"),
        description="Delay lanes that `topology declare` creates in advance; others are created on first use.",
    )
    task_routes: dict[str, str] = Field(
        default_factory=dict, description="Queue by task name or by pattern, e.g. reports.*."
    )
    queues: dict[str, QueueSettings] = Field(
        default_factory=default_queues,
        description="Queues by name. A file that declares any queue must declare all of them.",
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
        """Give the environment precedence over the file, which `load_settings` passes as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="before")
    @classmethod
    def _read_broker_url(cls, content: dict[str, Any]) -> dict[str, Any]:
        file = content.get("broker_url_file")
        if not isinstance(file, str | Path) or not str(file):
            return content
        return content | {"broker_url": read_broker_url(file)}

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, url: SecretStr) -> SecretStr:
        check_broker_url(url.get_secret_value())
        return url

    @field_validator("result_url")
    @classmethod
    def _check_result_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and "://" not in url.get_secret_value():
            raise ValueError("must be a URL, e.g. redis://host:6379/0, or omitted for SQLite in state_dir")
        if url is not None:
            check_login(url)
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
            raise ValueError("must be a folder, or omitted for ~/.local/state/broker-app; got an empty string")
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
        problems = bad_names(self.queues, self.prefix)
        problems += bad_references(self.queues, self.default_queue, self.task_routes)
        problems += bad_helps({name: queue.fleet.helps for name, queue in self.queues.items()})
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def specs(self) -> tuple[QueueSpec, ...]:
        """Return the queue specs, in the order of the settings."""
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
        """Return the routing table."""
        queues = {spec.name: spec for spec in self.specs()}
        return RoutingTable(queues=queues, default=self.default_queue, patterns=self.task_routes)
