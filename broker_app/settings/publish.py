"""Publishing, TLS and download settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, field_validator

from broker_app.settings.base import FROZEN, Positive, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Iterator


class PublishSettings(BaseModel):
    """Publishing of tasks."""

    model_config = FROZEN

    timeout_seconds: Positive = Field(
        10.0, description="Time limit of one call, including connecting, retries and the broker's confirm."
    )
    connect_timeout_seconds: Positive = Field(
        4.0, description="Time limit of one connection attempt; also limited by what remains of timeout_seconds."
    )
    pool_limit: int = Field(
        10, ge=2, le=1_000, description="Connections that a process keeps open for publishing."
    )
    spool: bool = Field(default=False, description="Spool tasks in state_dir while the broker is unreachable.")
    spool_max_messages: int = Field(
        100_000, ge=1, description="Messages that the spool holds; when it is full, a call fails."
    )
    spool_max_bytes: int = Field(
        256 * 1024 * 1024, ge=1, description="Bytes that the spool holds; when it is full, a call fails."
    )


class TlsSettings(Table):
    """TLS for ``amqps://``: verification of the broker, and the client certificate."""

    ca_certificates: Path | None = Field(
        None, description="PEM file with the CA certificates to trust; None means those of the system."
    )
    certificate: Path | None = Field(
        None, description="PEM file with the client's certificate chain; None means no client certificate."
    )
    certificate_key: Path | None = Field(
        None, description="PEM file with the private key; None reads it from certificate."
    )

    @field_validator("ca_certificates", "certificate", "certificate_key")
    @classmethod
    def _check_file(cls, file: Path | None) -> Path | None:
        if file is None:
            return None
        file = file.expanduser().absolute()
        if not os.access(file, os.R_OK) or not file.is_file():
            raise ValueError(f"must be a readable PEM file, got {file}")
        return file

    def problems(self) -> Iterator[Problem]:
        """Yield the conflicts between fields."""
        if self.certificate_key is not None and self.certificate is None:
            yield ("certificate", "certificate_key"), "certificate_key needs certificate to be set too"


class FetchSettings(BaseModel):
    """Limits of the task `broker_app.tasks.fetch`."""

    model_config = FROZEN

    timeout_seconds: Positive = Field(30.0, description="Time limit of one download.")
    max_bytes: int = Field(100 * 1024 * 1024, ge=1, description="Size limit of one response body, in bytes.")
