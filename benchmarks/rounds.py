"""Taking turns: what disturbs the machine for a while disturbs every contender alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Value = TypeVar("_Value")


def alternate(
    contenders: Mapping[str, Callable[[], _Value]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[_Value]]:
    """Measure the contenders in turn, A B A B.

    Args:
        contenders: By name; each measures itself once when it is called. They are warm already.
        rounds: Number of rounds.
        say: Called with each measurement, to show progress.

    Returns:
        The values by contender; those with the same index are of the same round.
    """
    values: dict[str, list[_Value]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name, measure in contenders.items():
            value = measure()
            values[name].append(value)
            say(f"round {number} of {rounds}: {name}: {value}")
    return values
