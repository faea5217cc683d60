"""Metrics settings: the counters, the metrics server and the status page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, field_validator

from broker_app.settings.base import Positive, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_TOKEN_CHARACTERS = 16


class MetricsSettings(Table):
    """The metrics of producers and workers, and the metrics server."""

    enabled: bool = Field(default=True, description="Collect metrics in producers and workers.")
    max_tasks: int = Field(
        200, ge=1, le=2_000, description="Distinct task names per process; further tasks are counted as `other`."
    )
    custom: Literal["workers", "all", "none"] = Field(
        "workers",
        description="Whose own `prometheus_client` metrics to export: `workers`, `all`, or `none`.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address that `metrics serve` listens on.")
    port: int = Field(9480, ge=0, le=65_535, description="TCP port of `metrics serve`; 0 picks a free one.")
    username: str | None = Field(None, description="User name for HTTP basic authentication; None disables it.")
    password: SecretStr | None = Field(None, description="Password for HTTP basic authentication.")
    certificate: Path | None = Field(
        None, description="PEM file with the server's certificate chain; None serves plain HTTP."
    )
    certificate_key: Path | None = Field(
        None, description="PEM file with the private key; None reads it from certificate."
    )
    broker_cache_seconds: Positive = Field(
        5.0, description="Time for which figures read from the broker are cached."
    )
    broker_timeout_seconds: Positive = Field(
        2.0, description="Maximum wait for the broker; then the response has the last figures and their age."
    )

    actions_token: SecretStr | None = Field(
        None,
        description="Token for actions on the status page, at least 16 characters; None makes the page read-only.",
    )
    page_hosts: tuple[str, ...] = Field(
        (), description="Further host names under which the server may be reached without a password."
    )

    @field_validator("actions_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        """Refuse a token that is easy to guess or does not fit into an HTTP header."""
        text = None if token is None else token.get_secret_value()
        if text is not None and (len(text) < MIN_TOKEN_CHARACTERS or not (text.isascii() and text.isprintable())):
            raise ValueError(f"must have at least {MIN_TOKEN_CHARACTERS} characters, all of them ASCII")
        return token

    def problems(self) -> Iterator[Problem]:
        """Yield the conflicts between fields."""
        if (self.username is None) != (self.password is None):
            yield ("username", "password"), "username and password must be set together"
        if self.certificate_key is not None and self.certificate is None:
            yield ("certificate", "certificate_key"), "certificate_key needs certificate to be set too"
