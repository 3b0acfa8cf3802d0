"""The page of an experiment: all of it in one file, and nothing of what is said in it breaks it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from servery.cli.experiment_page import page
from servery.terms.experiments import Arm, Conclusion, Design, Experiment, Look, Looked, Metric, Stage
from servery.terms.rollouts import Verdict

NS = 10**9
DESIGN = Design(
    "digits",
    (Arm("old", 0.5), Arm("<b>new", 0.5)),
    Metric("errors", 0.01),
    why="5 < 6 & so on",
    guardrails=(Metric("cost", 0.1),),
)


def looked(metric: str, at: int, units: int) -> Looked:
    low, high = (-1 / (at + 1), 1.5 / (at + 1)) if units else (-1.0, 1.0)
    return Looked(
        "<b>new",
        metric,
        metric == "errors",
        Verdict.NOT_YET,
        0.001,
        low,
        high,
        0.01,
        0.1,
        0.2,
        units,
        f"{metric} & more",
    )


LOOKS = [Look((1_760_000_000 + at) * NS, (looked("errors", at, 100 * at), looked("cost", at, 0))) for at in range(1000)]


def drawn(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_it_needs_nothing_else_and_shows_each_metric_of_each_arm() -> None:
    text = page(Experiment("x1", "try", DESIGN, NS, since_ns=NS), LOOKS)
    assert not re.search(r"src=|href=|url\(|@import|<script", text)
    assert "<b>new" not in text
    assert "&lt;b&gt;new" in text
    assert "5 &lt; 6 &amp; so on" in text
    assert re.findall("<h2>(.*?)</h2>", text) == ["&lt;b&gt;new: errors", "&lt;b&gt;new: cost"]
    assert "Nothing can be said below 1,000 units" in text
    (picture,) = drawn(text)
    points = picture.find("polyline")
    assert points is not None
    assert 400 <= len(points.attrib["points"].split()) <= 900
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", points.attrib["points"])]
    assert all(0 <= one <= 720 for one in numbers)


def test_it_says_what_was_concluded_and_that_nothing_has_come() -> None:
    over = Experiment(
        "x1", "try", DESIGN, NS, Stage.CONCLUDED, 2 * NS, Conclusion.SHIP, "<b>new", "ann", "it is better"
    )
    text = page(over, [])
    assert "Concluded 1970-01-01 00:00:02Z: ship &lt;b&gt;new. it is better" in text
    assert drawn(text) == []


def test_one_look_is_a_picture_too() -> None:
    assert len(drawn(page(Experiment("x1", "try", DESIGN, NS), LOOKS[-1:]))) == 1
