"""The settings of what is counted and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr, field_validator

from broker_app.settings.base import Positive, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_TOKEN_CHARACTERS = 16


class MetricsSettings(Table):
    """What is counted, and how the server of the metrics answers."""

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
    broker_cache_seconds: Positive = Field(
        5.0, description="How long what was read from the broker is shown before it is read again."
    )
    broker_timeout_seconds: Positive = Field(
        2.0, description="How long an answer waits for the broker; then it shows the last figures and their age."
    )

    actions_token: SecretStr | None = Field(
        None,
        description="What lets one act on the status page; at least 16 characters. None: the page only shows.",
    )
    page_hosts: tuple[str, ...] = Field(
        (), description="Further names by which browsers and Prometheus ask the server without a password."
    )

    @field_validator("actions_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        """Refuse a token that can be guessed, or that no header can carry."""
        text = None if token is None else token.get_secret_value()
        if text is not None and (len(text) < MIN_TOKEN_CHARACTERS or not (text.isascii() and text.isprintable())):
            raise ValueError(f"must have at least {MIN_TOKEN_CHARACTERS} characters, all of them ASCII")
        return token

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between the fields."""
        if (self.username is None) != (self.password is None):
            yield ("username", "password"), "username and password must be set both, or neither"
        if self.certificate_key is not None and self.certificate is None:
            yield ("certificate", "certificate_key"), "certificate_key needs a certificate beside it"
