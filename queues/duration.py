"""Durations as people write them: ``50ms``, ``10m``, ``1h30m``."""

from __future__ import annotations

import re

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_COUNT = r"(\d{1,9}(?:\.\d{1,9})?)"
_DURATION = re.compile(r"(?=\d)" + "".join(f"(?:{_COUNT}{unit})?" for unit in _UNITS), re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds of a count and a unit (d, h, m, s, ms, us), or of several, larger ones first.

    Raises:
        ValueError: Anything else.

    Example:
        >>> parse_duration("1h30m"), parse_duration("50ms")
        (5400.0, 0.05)
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a time such as 50ms, 90s, 10m, 2h, 3d or 1h30m, got {text!r}")
    return sum(float(count or 0) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True))
