"""The curves as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st
from tuned_points import points, usage

from broker_app.tuning import NodeLimits, SweepPlan, TaskLoad, TuningResult, parse_profile
from broker_app.tuning.chart import HEIGHT, WIDTH, draw
from broker_app.tuning.load import SampleCall
from broker_app.tuning.recommendation import judge_pool, recommend
from broker_app.tuning.scalability import ScalabilityCurve

SVG = "{http://www.w3.org/2000/svg}"


def tuning(highest: int = 64, rate: float = 20.0, run: float = 0.05, task: str | None = None) -> TuningResult:
    """Return the outcome of a run with two pools."""
    slots = sorted({1, *(2**power for power in range(2, 15, 3) if 2**power < highest), highest})
    law = ScalabilityCurve(rate, 0.01, 0.0001)
    results = [
        judge_pool(
            points(law.throughput, slots, pool=pool, run=run, used=usage(memory=memory)), NodeLimits(), highest
        )
        for pool, memory in (("threads", 90), ("prefork", 800))
    ]
    call = SampleCall(task, ("<&>",)) if task else parse_profile("wait=50ms,jitter=20%")
    plan = SweepPlan("lopri", TaskLoad((call,)), ("threads", "prefork"))
    return TuningResult(plan, tuple(results), recommend(results, NodeLimits(), 0.05))


@settings(max_examples=8)
@given(st.integers(1, 10_000), st.floats(0.01, 5_000), st.floats(1e-4, 60))
def test_every_figure_lies_in_the_picture(highest: int, rate: float, run: float) -> None:
    """Whatever was measured, the picture is XML, and all of its points and lines are inside."""
    root = ET.fromstring(draw(tuning(highest, rate, run)))  # noqa: S314 - our own

    for circle in root.iter(f"{SVG}circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= WIDTH
        assert 0 <= float(circle.get("cy", "-1")) <= HEIGHT
    for path in root.iter(f"{SVG}path"):
        numbers = [float(word.lstrip("ML")) for word in path.get("d", "").split()]
        assert all(0 <= x <= WIDTH for x in numbers[::2])
        assert all(0 <= y <= HEIGHT for y in numbers[1::2])


def test_the_picture_says_what_it_shows() -> None:
    """It names the queue, the load, the pools and the recommendation, and has colours for a dark page."""
    text = draw(tuning())

    for words in ("Queue lopri: waiting 50 ms", "threads", "prefork", "recommended: threads -c", "tasks a second"):
        assert words in text
    assert "prefers-color-scheme: dark" in text


def test_the_recommendation_is_not_written_over_the_names() -> None:
    """At the right edge, next to the names, its label ends where the curve does."""
    root = ET.fromstring(draw(tuning(8)))  # noqa: S314 - our own

    (label,) = (text for text in root.iter(f"{SVG}text") if (text.text or "").startswith("-c 8"))
    assert label.get("text-anchor") == "end"


def test_a_tasks_arguments_are_no_markup() -> None:
    """The user's text is shown as it is."""
    title = ET.fromstring(draw(tuning(task="shop.pay"))).find(f"{SVG}title")  # noqa: S314 - our own

    assert title is not None
    assert title.text == "Queue lopri: shop.pay('<&>')"


def test_it_carries_its_colours() -> None:
    """No colour is a CSS variable, which viewers other than browsers do not know and draw as black."""
    assert "var(" not in draw(tuning())
    assert "--c" not in draw(tuning())
