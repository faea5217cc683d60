"""Base class and types shared by all settings tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

Positive = Annotated[float, Field(gt=0, le=365 * 86_400, allow_inf_nan=False)]
"""A duration in seconds: above 0, at most a year."""

Problem = tuple[tuple[str, ...], str]
"""The fields that a rule compares, and the error message."""


class Table(BaseModel):
    """A table that reports all errors at once; pydantic alone skips the rules between fields after a bad field."""

    model_config = FROZEN

    def problems(self) -> Iterator[Problem]:
        """Yield the conflicts between fields that are valid on their own."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _validate_all(cls, content: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            made, lines = handler(content), []
        except ValidationError as error:
            lines = [_line(item) for item in error.errors(include_url=False)]
            bad = {str(line["loc"][0]) for line in lines if line["loc"]}
            if not isinstance(content, Mapping) or not bad:
                raise
            made = handler({key: value for key, value in content.items() if key not in bad})
        else:
            bad = set()
        conflicts = [text for fields, text in made.problems() if bad.isdisjoint(fields)]
        lines += [InitErrorDetails(type=_fault(text), input=None) for text in conflicts]
        if lines:
            raise ValidationError.from_exception_data(cls.__name__, lines, hide_input=True)
        return made


def _line(item: Any) -> InitErrorDetails:
    return InitErrorDetails(type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {}))


def _fault(text: str) -> PydanticCustomError:
    """Return an error with this text. pydantic treats a message as a template, so the text is its parameter."""
    return PydanticCustomError("value_error", "{text}", {"text": text})
