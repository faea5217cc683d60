"""The settings of what reaches out: publishing, TLS, downloads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, field_validator

from broker_app.settings.base import FROZEN, Positive, Problem, Table

if TYPE_CHECKING:
    from collections.abc import Iterator


class PublishSettings(BaseModel):
    """How tasks are published."""

    model_config = FROZEN

    timeout_seconds: Positive = Field(
        10.0, description="Bound of one call: connecting, retrying and the broker's confirmation together."
    )
    connect_timeout_seconds: Positive = Field(
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


class TlsSettings(Table):
    """How the broker's identity is verified with ``amqps://``, and which this client shows."""

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

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between the fields."""
        if self.certificate_key is not None and self.certificate is None:
            yield ("certificate", "certificate_key"), "certificate_key needs a certificate beside it"


class FetchSettings(BaseModel):
    """Limits of the task `broker_app.tasks.fetch`."""

    model_config = FROZEN

    timeout_seconds: Positive = Field(30.0, description="Bound of one whole download.")
    max_bytes: int = Field(100 * 1024 * 1024, ge=1, description="Bound of one body, in bytes.")
