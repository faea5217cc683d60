"""Load of a tuned worker: calls of the app's tasks, or of a simulated task."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker_app.errors import CallError
from broker_app.queues import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery.canvas import Signature

    from broker_app.app import BrokerApp

SIMULATED_TASK = "broker_app.tuning.simulate"

MAX_PROFILE_SECONDS = 60.0

_SHARE = re.compile(r"(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True, slots=True)
class SampleCall:
    """One call of a task, with JSON values as arguments.

    Attributes:
        task: The task's name.
        args: Positional arguments.
        kwargs: Keyword arguments.
        ignore_result: True to discard its result even if the load keeps results.
    """

    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    ignore_result: bool = False

    def __str__(self) -> str:
        if self.task == SIMULATED_TASK:
            wait, cpu, jitter = self.args
            return f"waiting {1000 * wait:g} ms, computing {1000 * cpu:g} ms, ±{100 * jitter:g} %"
        words = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in (self.kwargs or {}).items())]
        return f"{self.task}({', '.join(words)})"


@dataclass(frozen=True, slots=True)
class TaskLoad:
    """A cycle of calls to publish.

    Attributes:
        calls: The calls, at least one.
        keeps_results: Whether workers store the results of calls that do not ignore them.
    """

    calls: tuple[SampleCall, ...]
    keeps_results: bool = True

    def signatures(self, app: BrokerApp, queue: str) -> Iterator[Signature]:
        """Yield calls for a queue, endlessly."""
        for call in itertools.cycle(self.calls):
            options: dict[str, Any] = {"queue": queue}
            if call.ignore_result or not self.keeps_results:
                options["ignore_result"] = True
            yield app.signature(call.task, args=call.args, kwargs=call.kwargs or {}).set(**options)

    def __str__(self) -> str:
        counts = Counter(map(str, self.calls))
        if len(counts) == len(self.calls):
            return "; ".join(counts)
        return "; ".join(f"{count} of {len(self.calls)} {words}" for words, count in counts.items())


def parse_profile(text: str) -> SampleCall:
    """Return the call of a simulated task: ``wait=50ms,cpu=2ms,jitter=20%``.

    ``wait`` sleeps, as I/O does; ``cpu`` computes in Python, holding the interpreter lock; ``jitter`` varies both
    at random for each task by up to this share. Omitted keys are 0.

    Raises:
        CallError: An unknown key, a value without a unit, no work, or more than a minute.
    """
    words = dict(word.partition("=")[::2] for word in text.split(","))
    if unknown := words.keys() - {"wait", "cpu", "jitter"}:
        raise CallError(f"--profile: expected wait, cpu and jitter, got {min(unknown)!r} in {text!r}")
    wait, cpu = (parse_time(words.get(name, "0s"), f"--profile: {name}") for name in ("wait", "cpu"))
    if not 0 < wait + cpu <= MAX_PROFILE_SECONDS:
        raise CallError(
            f"--profile: expected wait and cpu of up to {MAX_PROFILE_SECONDS:g} s in all, got {text!r}"
        )
    return SampleCall(SIMULATED_TASK, (wait, cpu, _share(words.get("jitter", "0"))))


def parse_time(text: str, where: str) -> float:
    """Return the seconds of ``50ms``, ``2s`` or ``300us``.

    Raises:
        CallError: The text is not a duration; the message begins with ``where``.
    """
    try:
        return parse_duration(text.strip())
    except ValueError as error:
        raise CallError(f"{where}: {error}") from None


def simulate(wait_seconds: float, cpu_seconds: float, jitter: float) -> None:
    """Sleep, then compute, each up to ``jitter`` (a share, 0..1) longer or shorter."""
    drawn = _drawn(jitter)
    if wait_seconds:
        time.sleep(wait_seconds * drawn)
    _compute(cpu_seconds * drawn)


async def simulate_in_loop(wait_seconds: float, cpu_seconds: float, jitter: float) -> None:
    """Do what `simulate` does, as a coroutine: others run while it sleeps, not while it computes."""
    drawn = _drawn(jitter)
    if wait_seconds:
        await asyncio.sleep(wait_seconds * drawn)
    _compute(cpu_seconds * drawn)


def _drawn(jitter: float) -> float:
    return 1 + jitter * random.uniform(-1, 1)  # noqa: S311 - not security-relevant


def _compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text.strip())
    share = float(match.group(1)) / (100 if match.group(2) else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise CallError(f"--profile: jitter: expected a share such as 20% or 0.2, got {text!r}")
    return share
