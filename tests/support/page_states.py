"""States of a host in which the status page is looked at: readings as the collector returns them, made up.

``python tests/support/page_states.py FOLDER`` writes a picture of each, light and dark, wide and narrow.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from broker_app.broker.scheduled import Backlog
from broker_app.metrics import catalogue
from broker_app.metrics.reader import MetricTotals, Numbers, Series
from broker_app.monitoring.broker_reader import BrokerNumbers, QueueNumbers
from broker_app.monitoring.collector import Snapshot
from broker_app.monitoring.status_page.history import STEP_SECONDS, STEPS, HistorySample, QueueCounts
from broker_app.queues.delay import parse_lane
from broker_app.queues.objectives import BOUNDS_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker_app.monitoring.status_page import StatusPage

SETTINGS = """
[queues.default]
wait_objective_seconds = 5.0
[queues.mail]
wait_objective_seconds = 30.0
[queues.lopri]
wait_objective_seconds = 600.0
[queues.reports]
dead_letters = "discard"
"""

HOST = "worker1"


@dataclass
class Story:
    """The history of a queue; the functions take the step, 0 is the oldest.

    Attributes:
        finished: Tasks in a step.
        failed: Of them.
        published: Tasks in a step.
        wait: What each that started had waited.
        ready: Messages that wait.
        nodes: Of its fleet that are up, of as many as ``wanted``.
        wanted: See there.
        slots: Of each node.
        busy: Of each node.
        dead: Dead letters.
        consumers: On all hosts.
    """

    finished: Callable[[int], float] = lambda _: 0.0
    failed: Callable[[int], float] = lambda _: 0.0
    published: Callable[[int], float] = lambda _: 0.0
    wait: Callable[[int], float] = lambda _: 0.004
    ready: Callable[[int], int] = lambda _: 0
    nodes: int = 1
    wanted: int = 1
    slots: int = 8
    busy: int = 0
    dead: int = 0
    consumers: int = 1
    _counts: list[QueueCounts] = field(default_factory=list)

    def counts(self) -> list[QueueCounts]:
        """Return its counts at each step, and now."""
        counts, waited = QueueCounts(), [0.0] * (len(BOUNDS_SECONDS) + 1)
        found = []
        for step in range(STEPS + 2):
            finished, wait, ready = self.finished(step), self.wait(step), self.ready(step)
            waited[next((i for i, bound in enumerate(BOUNDS_SECONDS) if wait <= bound), -1)] += finished
            counts = QueueCounts(
                counts.published + self.published(step),
                counts.finished + finished,
                counts.failed + self.failed(step),
                list(waited),
                ready,
                wait if ready else 0.0,
            )
            found.append(counts)
        return found


def full() -> dict[str, Story]:
    """Return a busy host: one queue late, one close, one on time, one without an objective."""
    return {
        "default": Story(
            finished=lambda step: 55 + 22 * math.sin(step / 6) + 9 * math.sin(step * 2.1),
            failed=lambda step: 4.0 if step % 23 == 7 else 0.0,
            published=lambda step: 56 + 22 * math.sin(step / 6 + 0.3),
            wait=lambda step: 0.004 + 0.3 * max(0.0, math.sin(step / 4)) ** 6,
            ready=lambda step: step % 2,
            busy=3,
            dead=4,
        ),
        "mail": Story(
            finished=lambda step: 20 + 6 * math.sin(step / 3),
            published=lambda step: 20 + 9 * math.sin(step / 3 + 1),
            wait=lambda step: 4 + 0.3 * step + 2 * math.sin(step),
            ready=lambda step: 14 + step // 8,
            busy=7,
        ),
        "lopri": Story(
            finished=lambda step: 190 + 14 * math.sin(step * 1.3) if step > 12 else 20 + step,
            failed=lambda step: 11 + 5 * math.sin(step) if step > 30 else 0.0,
            published=lambda step: 900.0 if 10 < step < 26 else 30.0,
            wait=lambda step: max(2.0, (step - 11) * 19.0),
            ready=lambda step: max(0, min(15, step - 10) * 790 - max(0, step - 25) * 155) + 800,
            nodes=1,
            wanted=2,
            slots=32,
            busy=32,
            dead=1_284,
        ),
        "reports": Story(nodes=0, wanted=0, consumers=2, finished=lambda _: 0.0),
    }


def quiet() -> dict[str, Story]:
    """Return a host on which nothing happens."""
    return {name: Story() for name in ("default", "mail", "lopri", "reports")}


def samples(stories: dict[str, Story], now: float) -> list[HistorySample]:
    """Return what was remembered of them until shortly before now."""
    counts = {name: story.counts() for name, story in stories.items()}
    return [
        HistorySample(
            now - 4.0 - (STEPS - step) * STEP_SECONDS, {name: found[step] for name, found in counts.items()}
        )
        for step in range(STEPS + 1)
    ]


def snapshot(stories: dict[str, Story], now: float, *, problem: str = "", lanes: str = "") -> Snapshot:
    """Return what is read now.

    Args:
        stories: Of the queues.
        now: Seconds since the epoch.
        problem: Why the broker does not answer.
        lanes: Scheduled messages: ``10s=4 2h=7``.
    """
    numbers: Numbers = {}
    for name, story in stories.items():
        numbers.update(_series(name, story))
    depths = {parse_lane(lane): int(count) for lane, count in (pair.split("=") for pair in lanes.split())}
    broker = BrokerNumbers(is_up=False, problem=problem)
    if not problem:
        queues = {name: _numbers(story) for name, story in stories.items()}
        broker = BrokerNumbers(
            is_up=True, has_management=True, queues=queues, backlog=Backlog(depths, 0, is_complete=True)
        )
    return Snapshot(now, MetricTotals(read=5), broker, 1.5, numbers)


def _numbers(story: Story) -> QueueNumbers:
    last = story.counts()[-1]
    return QueueNumbers(
        last.ready or 0,
        story.consumers,
        dead=story.dead,
        unacknowledged=story.busy * story.nodes,
        oldest_wait=last.head,
    )


def _series(name: str, story: Story) -> Iterator[tuple[Series, list[float]]]:
    last, node = story.counts()[-1], f"{name}@{HOST}"
    yield Series(catalogue.PUBLISHED, (name, "shop.pack")), [last.published]
    ended = {"succeeded": last.finished - last.failed, "failed": last.failed}
    for outcome, count in ended.items():
        yield Series(catalogue.FINISHED, (name, "shop.pack", outcome, node)), [count]
    yield Series(catalogue.WAITED_SECONDS, (name, node), BOUNDS_SECONDS), [*last.waited, 0.0]
    yield Series(catalogue.NODES_WANTED, (name,)), [float(story.wanted)]
    for number in range(max(story.nodes, story.wanted)):
        labels = (name, node if number == 0 else f"{name}+{number + 1}@{HOST}")
        is_up = number < story.nodes
        yield Series(catalogue.WORKER_UP, labels), [float(is_up)]
        if is_up:
            yield Series(catalogue.SLOTS, labels), [float(story.slots)]
            yield Series(catalogue.SLOTS_BUSY, labels), [float(story.busy)]
            yield Series(catalogue.RESERVED, labels), [float(story.busy == story.slots) * story.slots]
            yield Series(catalogue.LAST_CONSUMED_AGE, labels), [0.4 if story.busy else 1_140.0]


class Told:
    """Stands where the collector does, and tells a state.

    Args:
        stories: Of the queues.
        problem: As `snapshot`.
        lanes: As `snapshot`.

    Attributes:
        paused: The queues that are paused.
    """

    def __init__(self, stories: dict[str, Story], problem: str = "", lanes: str = "") -> None:
        self.paused: frozenset[str] = frozenset()
        self.stories = stories
        self.problem = problem
        self.lanes = lanes

    def collect(self) -> Snapshot:
        """Return the state, as of now."""
        found = snapshot(self.stories, time.time(), problem=self.problem, lanes=self.lanes)
        return replace(found, broker=replace(found.broker, paused=self.paused))

    def fill(self, page: StatusPage) -> None:
        """Give a page the last quarter of an hour."""
        for one in samples(self.stories, time.time()):
            page.history.add(one)


STATES = {
    "full": Told(full(), lanes="10s=41 5m=212 20m=96 3h=1830 2d=75"),
    "empty": Told(quiet()),
    "broken": Told(full(), problem="127.0.0.1:5672: [Errno 111] Connection refused"),
}


def pictures(folder: Path) -> None:
    """Write the pictures."""
    from browsers import find_browser, opened  # noqa: PLC0415
    from page_server import page_server  # noqa: PLC0415

    found = find_browser()
    assert found, "no browser"
    for name, told in STATES.items():
        with page_server(folder / name, told) as server, opened(found, folder / name) as browser:
            for is_dark in (False, True):
                for width in (1280, 390):
                    browser.shape(width, 800, is_dark=is_dark)
                    browser.open(server.url)
                    browser.wait_for("#queues article")
                    browser.run("document.getElementById('where').textContent = 'shop on worker1'")
                    look = f"{'dark' if is_dark else 'light'}-{width}"
                    browser.picture(folder / f"{name}-{look}.png")


if __name__ == "__main__":
    pictures(Path(sys.argv[1]))
