"""Ranges and shares in a manifest: what `servery check` says of those by which thresholds can't follow the traffic."""

from __future__ import annotations

from pathlib import Path

import pytest

from servery.control.apply import check

GOOD = """\
servery: 1
models:
  small: {runtime: openai, endpoint: "http://127.0.0.1:9000/v1", serves: gpt-4o-mini}
  big: {runtime: openai, endpoint: "http://127.0.0.1:9000/v1", serves: gpt-4o}
routes:
  chat:
    policy: {kind: complexity, thresholds: [0.5], ranges: [[0.3, 0.7]], explore: 0.1}
    ceiling: {mean_usd_per_million: 500}
    tiers:
      - {name: cheap, model: small, share: [0.5, 0.9], accept: {check: logprob, confidence: 0.8, range: [0.6, 0.9]}}
      - {name: dear, model: big, share: [0.1, 0.5]}
"""


def problems_of(folder: Path, text: str) -> list[str]:
    path = folder / "servery.yaml"
    path.write_text(text)
    return [f"{problem.line} {problem.where}: {problem.message} → {problem.fix}" for problem in check(path).problems]


def test_the_good_one_is_good(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == []


POLICY, CHEAP, DEAR = "routes.chat.policy", "routes.chat.tiers[0]", "routes.chat.tiers[1]"


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "told"),
    [
        ("[[0.3, 0.7]]", "[[0.7, 0.3]]", 7, f"{POLICY}.ranges[0]", "upside down → write [0.3, 0.7]"),
        ("[[0.3, 0.7]]", "[[0.6, 0.7]]", 7, f"{POLICY}.ranges[0]", "0.5 lies outside of its range [0.6, 0.7]"),
        ("[[0.3, 0.7]]", "[[0.3, 0.7], [0.4, 0.8]]", 7, f"{POLICY}.ranges", "1 thresholds have 2 ranges → write 1"),
        ("[[0.3, 0.7]]", "[[0.3, 1.7]]", 7, f"{POLICY}.ranges[0][1]", "-1 to 1"),
        ("kind: complexity", "kind: cascade", 7, f"{POLICY}.ranges", "does nothing under the policy `cascade` → write `range`"),
        ("kind: complexity", "kind: fixed", 7, f"{POLICY}.ranges", "does nothing under the policy `fixed` → remove it"),
        ("range: [0.6, 0.9]", "range: [0.85, 0.9]", 10, f"{CHEAP}.accept.range", "0.8 lies outside"),
        ("range: [0.6, 0.9]", "range: [0.9, 0.6]", 10, f"{CHEAP}.accept.range", "upside down"),
        ("check: logprob", "check: json_schema", 10, f"{CHEAP}.accept.range", "0 or 1"),
        ("share: [0.1, 0.5]}", "accept: {check: logprob, confidence: 0.8, range: [0.6, 0.9]}}", 11, f"{DEAR}.accept.range",
         "the last tier"),
        ("share: [0.5, 0.9]", "share: [0.9, 0.5]", 10, f"{CHEAP}.share", "upside down"),
        ("share: [0.1, 0.5]", "share: [0.6, 0.7]", 9, "routes.chat.tiers", "add up to 1.1, more than 1"),
        ("share: [0.5, 0.9]", "share: [0.1, 0.2]", 9, "routes.chat.tiers", "add up to 0.7, less than 1"),
        ("share: [0.5, 0.9]", "share: [0.96, 1]", 10, f"{CHEAP}.share", "leaves this tier 0.95"),
        ("share: [0.1, 0.5]", "share: [0, 0.04]", 11, f"{DEAR}.share", "sends 0.05"),
    ],
)  # fmt: skip
def test_what_cant_hold_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, where: str, told: str
) -> None:
    assert old in GOOD
    problems = problems_of(tmp_path, GOOD.replace(old, new, 1))
    found = [problem for problem in problems if problem.startswith(f"{line} {where}: ")]
    assert found, problems
    assert any(told in problem for problem in found), found


def test_a_range_needs_a_promise_to_move_for(tmp_path: Path) -> None:
    nothing = GOOD.replace("    ceiling: {mean_usd_per_million: 500}\n", "")
    nothing = nothing.replace(" share: [0.5, 0.9],", "").replace(", share: [0.1, 0.5]", "")
    (told,) = problems_of(tmp_path, nothing)
    assert told.startswith("7 routes.chat.policy.ranges: nothing would move the thresholds")
    # A confidence's range is of use without one: `servery route calibrate` keeps to it.
    assert problems_of(tmp_path, nothing.replace(", ranges: [[0.3, 0.7]]", "")) == []
