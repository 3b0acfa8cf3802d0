"""Language models in a manifest: what `servery check` says of them. Each case is one change to a manifest that is good."""

from __future__ import annotations

from pathlib import Path

import pytest

from servery.control.apply import check
from servery.control.prices import listed_price

GOOD = """\
servery: 1
models:
  small:
    runtime: openai
    endpoint: http://127.0.0.1:9000/v1
    serves: gpt-4o-mini
  big:
    runtime: openai
    endpoint: https://llm.example.com/v1
    context_window: 8192
    lacks: [images]
    price: {usd_per_1m_input: 1, usd_per_1m_output: 2}
  faq:
    runtime: heuristic
    replies: [{pattern: hours, reply: Nine to five.}]
routes:
  assistant:
    policy: {kind: complexity, thresholds: [0.2, 0.6]}
    ceiling: {mean_usd_per_million: 500}
    tiers: [{name: free, model: faq}, {name: cheap, model: small}, {name: dear, model: big}]
"""


def problems_of(folder: Path, text: str) -> list[str]:
    path = folder / "servery.yaml"
    path.write_text(text)
    return [f"{problem.where}: {problem.message} → {problem.fix}" for problem in check(path).problems]


def test_the_good_one_is_good(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "where", "told"),
    [
        ("    endpoint: https://llm.example.com/v1\n", "", "models.big", "endpoint"),
        ("https://llm", "ftp://llm", "models.big.endpoint", "text"),
        ("    price: {usd_per_1m_input: 1, usd_per_1m_output: 2}\n", "", "models.big", "price of 'big' is not known"),
        ("usd_per_1m_output: 2", "usd_per_hour: 2", "models.big.price.usd_per_hour", "usd_per_1m_input"),
        ("serves: gpt-4o-mini", "artifact: x.onnx\n    serves: gpt-4o-mini", "models.small.artifact", "no artifact"),
        ("serves: gpt-4o-mini", "threads: 2\n    serves: gpt-4o-mini", "models.small.threads", "does nothing"),
        ("    replies: [{pattern: hours, reply: Nine to five.}]\n", "", "models.faq", "replies"),
        ("pattern: hours", "pattern: '(hours'", "models.faq.replies[0].pattern", "regular expression"),
        ("runtime: heuristic", "runtime: heuristic\n    endpoint: http://x", "models.faq.endpoint", "does nothing"),
        ("[0.2, 0.6]", "[0.6, 0.2]", "routes.assistant.policy.thresholds", "write [0.2, 0.6]"),
        ("[0.2, 0.6]", "[0.2]", "routes.assistant.policy.thresholds", "need 2 thresholds, not 1"),
        (", thresholds: [0.2, 0.6]", "", "routes.assistant.policy.thresholds", "[0.33, 0.67]"),
        ("thresholds: [0.2, 0.6]", "router: r.npz", "routes.assistant.policy.router", "3 tiers"),
        ("complexity, thresholds: [0.2, 0.6]", "cascade", "routes.assistant.tiers[0]", "no answer would reach the next tier"),
        ("kind: complexity", "kind: fixed", "routes.assistant.policy.thresholds", "does nothing"),
        ("name: free, model: faq", "name: free, model: faq, accept: {check: verifier, confidence: 0.8}",
         "routes.assistant.tiers[0].accept.check", "add `verifier: NAME.npz`"),
        ("name: free, model: faq", "name: free, model: faq, accept: {check: agreement, verifier: v.npz, confidence: 0.8}",
         "routes.assistant.tiers[0].accept.verifier", "does nothing under another check"),
        ("name: free, model: faq", "name: free, model: faq, accept: {verifier: v.npz, confidence: 0.8}",
         "routes.assistant.tiers[0].accept.verifier", "does nothing by itself"),
        ("name: free, model: faq", "name: free, model: faq, accept: {check: verifier, verifier: v.npz, confidence: 0.8}",
         "routes.assistant.tiers[0].accept.verifier", "v.npz can't be read: No such file or directory"),
        ("name: free, model: faq", "name: free, model: faq, accept: {confidence: 0.8}",
         "routes.assistant.tiers[0].accept", "or `verifier`"),
        ("lacks: [images]", "lacks: [wings]", "models.big.lacks[0]", "images"),
        ("https://llm", "https://me:secret@llm", "models.big.endpoint", "credentials"),
        ("example.com/v1", "example.com/v1?key=s3cret", "models.big.endpoint", "behind the `?`"),
        ("example.com/v1", "example.com/v1#part", "models.big.endpoint", "behind the `#`"),
        ("example.com/v1", "example.com:99999/v1", "models.big.endpoint", "no address: Port"),
        ("example.com/v1", "example.com/ä", "models.big.endpoint", "%C3%A4"),
        ("https://llm.example.com/v1", "https:///v1", "models.big.endpoint", "names no host"),
        ("serves: gpt-4o-mini", "credentials: {env: NOT SET}", "models.small.credentials.env", "text"),
        ("serves: gpt-4o-mini", "serves: gpt-4o-mini\n    credentials: {env: SERVERY_NOT_SET}",
         "models.small.credentials.env", "not set"),
    ],
)  # fmt: skip
def test_what_cant_hold_is_told_with_its_place(tmp_path: Path, old: str, new: str, where: str, told: str) -> None:
    assert old in GOOD
    problems = problems_of(tmp_path, GOOD.replace(old, new, 1))
    found = [problem for problem in problems if problem.startswith(f"{where}: ")]
    assert found, problems
    assert any(told in problem for problem in found), found


def test_a_route_answers_in_text_or_in_tensors(tmp_path: Path) -> None:
    mixed = GOOD.replace("{name: free, model: faq}", "{name: free, model: tensors}").replace(
        "routes:", "  tensors: {runtime: onnx, artifact: x.onnx, price: {usd_per_1m_input: 1}}\nroutes:"
    )
    problems = problems_of(tmp_path, mixed)
    assert any(problem.startswith("routes.assistant.tiers: `small` answers in text") for problem in problems), problems
    assert any("models.tensors.price.usd_per_1m_input" in problem for problem in problems), problems


def test_public_prices_are_known() -> None:
    price = listed_price("gpt-4o-mini")
    assert price is not None
    tokens = price.of_tokens
    assert tokens is not None
    assert (tokens.input, tokens.output, tokens.cached, tokens.cache_write) == (150_000, 600_000, 75_000, 150_000)
    assert listed_price("nobody's") is None
