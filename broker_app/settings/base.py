"""What all tables of the settings share."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

Positive = Annotated[float, Field(gt=0, le=365 * 86_400, allow_inf_nan=False)]
"""A duration: more than nothing, at most a year."""
