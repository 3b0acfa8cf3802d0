"""Validate: what is declared must hold together. Each case is one change to a manifest that is good."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from servery.control.declare import declare
from servery.control.validate import validate
from servery.terms.change import Problem, Served, Version
from servery.terms.tensors import Signature, TensorSpec

GOOD = """\
servery: 1
models:
  small:
    runtime: onnx
    artifact: small.onnx
    confidence: {output: probabilities}
    prediction: {output: label}
    price: {usd_per_hour: 0.05}
  large:
    runtime: onnx
    artifact: large.onnx
    price: {usd_per_hour: 0.05}
routes:
  digits:
    policy: {kind: cascade}
    slo: {p50_ms: 5, p95_ms: 50}
    deadline_ms: 2000
    ceiling: {mean_usd_per_million: 2, max_usd_per_inference: 0.001}
    tiers:
      - {name: cheap, model: small, share: [0.6, 0.9], accept: {confidence: 0.95, range: [0.85, 0.99]}}
      - {name: premium, model: large, share: [0.1, 0.4]}
tenants:
  acme:
    keys:
      - {id: k1, sha256: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
  beta:
    keys:
      - {id: k1, sha256: "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}
"""

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", (-1, 64)),),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 10))),
)


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def problems_of(tmp_path: Path, text: str, **signatures: Signature | None) -> tuple[Problem, ...]:
    path = tmp_path / "servery.yaml"
    path.write_text(text)
    declared = declare(path)
    assert declared.sound is not None
    models = {
        name: Served((Version(name, "1", "d", "/artifact", signature=signatures.get(name, SIGNATURE)),))
        for name in declared.sound.models
    }
    return (*declared.problems, *validate(declared.sound, models, declared.places))


def test_a_manifest_that_holds_has_no_problems(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == ()


CHEAP = "{name: cheap, model: small, share: [0.6, 0.9], accept: {confidence: 0.95, range: [0.85, 0.99]}}"
PREMIUM = "{name: premium, model: large, share: [0.1, 0.4]}"
CHANGES = [
    # (what is written, what stands there instead, where, message, fix)
    ("    artifact: large.onnx\n", "", "models.large", "`artifact` is missing", "`artifact: PATH`"),
    (
        "    artifact: large.onnx\n",
        "    artifact: l\n    artifacts: [{number: 1, artifact: x}]\n",
        "models.large",
        "are both there",
        "not both",
    ),
    (
        "    artifact: large.onnx\n",
        "    artifacts: [{number: 1, artifact: x}, {number: 1, artifact: y}]\n",
        "models.large.artifacts[1].number",
        "two artifacts have the number 1",
        "its own number",
    ),
    (
        "    artifact: large.onnx\n",
        "    artifact: l\n    versions: {latest: 2, all: true}\n",
        "models.large.versions",
        "say different things",
        "write one",
    ),
    (
        "    artifact: large.onnx\n",
        "    artifact: l\n    labels: {stable: 2}\n",
        "models.large.labels.stable",
        "points at 2, which is not served",
        "point it at one of 1",
    ),
    (
        "    artifact: large.onnx\n",
        '    artifact: l\n    labels: {"2": 1}\n',
        "models.large.labels.2",
        "looks like a number",
        "use a word",
    ),
    (
        "model: large",
        "model: large, version: stable",
        "routes.digits.tiers[1].version",
        "no version 'stable'",
        "one of 1",
    ),
    ("model: large", "model: larg", "routes.digits.tiers[1].model", "no model 'larg'", "did you mean `large`?"),
    ("model: large", "model: xyz", "routes.digits.tiers[1].model", "no model 'xyz'", "the models are `small`, `large`"),
    ("name: premium", "name: cheap", "routes.digits.tiers[1].name", "two tiers are called 'cheap'", "its own name"),
    ("name: premium", 'name: "a=b"', "routes.digits.tiers[1].name", "servery-tier", "use letters"),
    ("  digits:", "  small:", "routes.small", "a route and a model are both called 'small'", "another name"),
    ("  digits:", '  " digits":', 'routes[" digits"]', "begins or ends with a space", "write 'digits'"),
    ("  digits:", "  a/../b:", 'routes["a/../b"]', "can't be called", "leave them out"),
    ("  acme:", '  "acme ":', 'tenants["acme "]', "begins or ends with a space", "write 'acme'"),
    (", accept: {confidence: 0.95, range: [0.85, 0.99]}", "", "routes.digits.tiers[0]", "has no `accept`", "accept:"),
    (
        "    confidence: {output: probabilities}\n",
        "",
        "routes.digits.tiers[0].model",
        "does not say how sure it is",
        "to models.small",
    ),
    ("kind: cascade", "kind: fixed", "routes.digits.tiers[0].accept", "`accept` does nothing", "kind: cascade"),
    ("[0.85, 0.99]", "[0.99, 0.85]", "routes.digits.tiers[0].accept.range", "upside down", "write [0.85, 0.99]"),
    ("[0.85, 0.99]", "[0.5, 0.9]", "routes.digits.tiers[0].accept.range", "outside of its range", "widen"),
    ("share: [0.1, 0.4]", "share: [0.4, 0.1]", "routes.digits.tiers[1].share", "upside down", "write [0.1, 0.4]"),
    ("share: [0.1, 0.4]", "share: [0.5, 0.6]", "routes.digits.tiers", "add up to 1.1, more than 1", "lower"),
    ("share: [0.1, 0.4]", "share: [0.01, 0.05]", "routes.digits.tiers", "add up to 0.95, less than 1", "raise"),
    ("p50_ms: 5,", "p50_ms: 60,", "routes.digits.slo.p95_ms", "p95_ms (50) is below p50_ms (60)", "60 or more"),
    ("p95_ms: 50", "p95_ms: 5000", "routes.digits.slo.p95_ms", "above the deadline", "raise `deadline_ms`"),
    ("million: 2,", "million: 2000,", "routes.digits.ceiling", "(1000 per million)", "lower"),
    ("  beta:", "  servery:", "tenants.servery", "is who asks where Servery does so itself", "another name"),
    ("bbbb" * 16, "aaaa" * 16, "tenants.beta.keys[0].sha256", "the same key as tenants.acme.keys[0]", "key new beta"),
    ("  beta:", "    regions: [uae]\n  beta:", "tenants.acme.regions", "pass through this Servery in 'local'", "uae"),
    (
        "output: probabilities",
        "output: probabilites",
        "models.small.confidence.output",
        "no output",
        "`probabilities`?",
    ),
    ("output: label", "output: class", "models.small.prediction.output", "no output 'class'", "`label` INT64 [rows]"),
    ("output: probabilities", "output: label", "models.small.confidence.output", "is not", "FP16, FP32, FP64"),
    ("output: label", "output: probabilities", "models.small.prediction.output", "one element per row", "[rows, 1]"),
]


@pytest.mark.parametrize(("old", "new", "where", "message", "fix"), CHANGES)
def test_each_thing_that_cannot_hold_is_told(
    tmp_path: Path, old: str, new: str, where: str, message: str, fix: str
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    (problem,) = problems_of(tmp_path, text)
    assert problem.where == where
    assert message in problem.message
    assert fix in problem.fix
    assert problem.line >= 1


def test_a_problem_has_the_line_that_it_is_about(tmp_path: Path) -> None:
    text = GOOD.replace("model: large", "model: larg")
    (problem,) = problems_of(tmp_path, text)
    assert problem.line == line_of(text, "larg,")
    assert text.splitlines()[problem.line - 1][problem.column - 1 :].startswith("larg")


def test_a_ceiling_needs_prices(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, GOOD.replace("    price: {usd_per_hour: 0.05}\n", ""))
    assert "no price is declared for 'large', 'small'" in problem.message


def test_two_keys_of_one_tenant_need_two_ids_but_tenants_may_use_the_same(tmp_path: Path) -> None:
    twice = GOOD + '      - {id: k1, sha256: "' + "c" * 64 + '"}\n'
    (problem,) = problems_of(tmp_path, twice)
    assert problem.where == "tenants.beta.keys[1].id"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", '"::1"', '"[::1]"'])
def test_without_tenants_loopback_is_open(tmp_path: Path, host: str) -> None:
    text = GOOD[: GOOD.index("tenants:")] + f"tenants: {{}}\nserver: {{host: {host}}}\n"
    assert problems_of(tmp_path, text) == ()


@pytest.mark.parametrize("host", ["0.0.0.0", '"::"', "10.0.0.1", "example.com"])
def test_without_tenants_anything_else_is_closed(tmp_path: Path, host: str) -> None:
    without = GOOD[: GOOD.index("tenants:")]
    (problem,) = problems_of(tmp_path, without + f"tenants: {{}}\nserver: {{host: {host}}}\n")
    assert problem.where == "server.host"
    assert "servery key new" in problem.fix
    assert problems_of(tmp_path, GOOD + f"server: {{host: {host}}}\n") == ()


def test_a_route_that_no_tier_of_may_serve_a_tenant_is_impossible(tmp_path: Path) -> None:
    text = GOOD.replace("runtime: onnx\n", "runtime: onnx\n    region: us\n") + "    regions: [uae]\nregion: uae\n"
    (problem,) = problems_of(tmp_path, text)
    assert problem.where == "routes.digits"
    assert "'beta'" in problem.message
    assert "uae" in problem.message
    assert "us" in problem.message
    one_left = text.replace("    region: us\n", "", 1)
    assert problems_of(tmp_path, one_left) == ()


def test_a_fixed_route_needs_no_confidence(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: cascade}", "{}").replace(CHEAP, "{name: cheap, model: large}")
    assert problems_of(tmp_path, text) == ()


def replaced(inputs: tuple[TensorSpec, ...] | None = None, outputs: tuple[TensorSpec, ...] | None = None) -> Signature:
    return Signature(inputs if inputs is not None else SIGNATURE.inputs, outputs or SIGNATURE.outputs)


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)


OTHER_TIERS = [
    (replaced(inputs=(spec("x", "FP32", -1, 63),)), ["`x` FP32 [rows, 64] against `x` FP32 [rows, 63]"]),
    (replaced(inputs=(spec("x", "FP64", -1, 64),)), ["against `x` FP64 [rows, 64]"]),
    (replaced(inputs=(spec("x", "FP32", -1, 8, 8),)), ["against `x` FP32 [rows, 8, 8]"]),
    (replaced(inputs=(spec("y", "FP32", -1, 64),)), ["only the first takes `x`", "only the second takes `y`"]),
    (replaced(outputs=(spec("scores", "FP32", -1, 10),)), ["no output in common"]),
    (replaced(outputs=(spec("label", "BYTES", -1),)), ["no output in common"]),
    (replaced(inputs=(spec("x", "FP32", 1, 64),)), ["takes exactly 1"]),
]


@pytest.mark.parametrize(("large", "messages"), OTHER_TIERS)
def test_tiers_of_one_route_must_fit_each_other(tmp_path: Path, large: Signature, messages: list[str]) -> None:
    problems = problems_of(tmp_path, GOOD, large=large)
    assert {problem.where for problem in problems} == {"routes.digits.tiers[1].model"}
    assert all(any(message in problem.message for problem in problems) for message in messages)
    assert len(problems) == len(messages)
    assert all("'cheap' and 'premium'" in p.message or "'premium' of a cascade" in p.message for p in problems)


def test_free_sizes_fit_any(tmp_path: Path) -> None:
    free = replaced(inputs=(spec("x", "FP32", -1, -1),), outputs=(spec("probabilities", "FP32", -1, -1),))
    assert problems_of(tmp_path, GOOD, large=free) == ()


def test_an_unreadable_artifact_hides_no_other_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD, large=None) == ()
    (problem,) = problems_of(tmp_path, GOOD.replace("p95_ms: 50", "p95_ms: 1"), large=None)
    assert problem.where == "routes.digits.slo.p95_ms"


CONFIDENCES = [
    ("{output: p}", (-1,), True),
    ("{output: p}", (-1, 1), True),
    ("{output: p}", (-1, 10), True),
    ("{output: p}", (-1, -1), True),
    ("{output: p}", (), False),
    ("{output: p}", (-1, 2, 2), False),
    ("{output: p, from: margin}", (-1, 2), True),
    ("{output: p, from: margin}", (-1, -1), True),
    ("{output: p, from: margin}", (-1, 1), False),
    ("{output: p, from: margin}", (-1,), False),
    ("{output: p, softmax: true}", (-1, 2), True),
    ("{output: p, softmax: true}", (-1, 1), False),
    ("{output: p, softmax: true}", (-1,), False),
]


@pytest.mark.parametrize(("declared", "shape", "good"), CONFIDENCES)
def test_a_confidence_needs_an_output_that_can_say_it(
    tmp_path: Path, declared: str, shape: tuple[int, ...], good: bool
) -> None:
    text = GOOD.replace("{output: probabilities}", declared)
    problems = problems_of(tmp_path, text, small=replaced(outputs=(*SIGNATURE.outputs, spec("p", "FP32", *shape))))
    assert [p.where for p in problems] == ([] if good else ["models.small.confidence.output"])


UNCOUNTABLE = [
    ((), "no input"),
    ((spec("x", "FP32", -1, 64), spec("k", "INT64", 3)), "disagree about the number of rows"),
    ((spec("x", "FP32", -1, 64), spec("k", "INT64", 1)), "disagree about the number of rows"),
]
COUNTABLE = [
    (spec("x", "FP32"),),
    (spec("x", "FP32", -1, 64), spec("k", "INT64")),
    (spec("x", "FP32", 3, 64), spec("k", "INT64", 1), spec("j", "INT64")),
]


@pytest.mark.parametrize(("inputs", "message"), UNCOUNTABLE)
def test_rows_must_be_countable(tmp_path: Path, inputs: tuple[TensorSpec, ...], message: str) -> None:
    text = GOOD[: GOOD.index("routes:")] + GOOD[GOOD.index("tenants:") :]
    (problem,) = problems_of(tmp_path, text, small=replaced(inputs=inputs))
    assert problem.where == "models.small.artifact"
    assert message in problem.message


@pytest.mark.parametrize("inputs", COUNTABLE)
def test_a_single_value_is_shared_by_all_rows_and_fixed_shapes_are_one_row(
    tmp_path: Path, inputs: tuple[TensorSpec, ...]
) -> None:
    text = GOOD[: GOOD.index("routes:")] + GOOD[GOOD.index("tenants:") :]
    assert problems_of(tmp_path, text, small=replaced(inputs=inputs)) == ()


@pytest.mark.parametrize("inputs", [(spec("x", "FP32"),), (spec("x", "FP32", 3, 64),)])
def test_a_cascade_needs_rows(tmp_path: Path, inputs: tuple[TensorSpec, ...]) -> None:
    one = replaced(inputs=inputs)
    problems = problems_of(tmp_path, GOOD, small=one, large=one)
    assert [problem.where for problem in problems] == [f"routes.digits.tiers[{at}].model" for at in (0, 1)]
    assert all("goes row by row" in problem.message for problem in problems)
    fixed = GOOD.replace("{kind: cascade}", "{}").replace(CHEAP, "{name: cheap, model: small, share: [0.6, 0.9]}")
    assert problems_of(tmp_path, fixed, small=one, large=one) == ()


def test_a_broken_part_is_not_called_missing_as_well(tmp_path: Path) -> None:
    text = GOOD.replace("artifact: large.onnx", "artifact: 5").replace('"' + "b" * 64 + '"', "b")
    assert [p.where for p in problems_of(tmp_path, text)] == ["models.large.artifact", "tenants.beta.keys[0].sha256"]
    none_left = GOOD[: GOOD.index("  acme:")] + "  acme: {}\nserver: {host: 0.0.0.0}\n"
    assert [p.where for p in problems_of(tmp_path, none_left)] == ["tenants.acme"]


def test_faults_of_form_and_of_meaning_come_together(tmp_path: Path) -> None:
    text = GOOD.replace("kind: cascade", "kind: cascade}\n    slow: {").replace("id: k1", "id: 1", 1)
    text += "server: {host: 0.0.0.0, port: 1}\nregion: 3\n"
    text += "  \n"
    wheres = {p.where for p in problems_of(tmp_path, text)}
    assert {"routes.digits.slow", "tenants.acme.keys[0].id", "server.port", "region"} <= wheres


def test_problems_are_plain_values(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, GOOD.replace("model: large", "model: larg"))
    assert msgspec.json.decode(msgspec.json.encode(problem), type=Problem) == problem
    assert str(problem).startswith(f"{tmp_path}/servery.yaml:{problem.line}:{problem.column}: routes.digits.tiers[1]")


STATIC = GOOD.replace(CHEAP, "{name: cheap, model: small}").replace(
    "{kind: cascade}", "{kind: static, by: header, name: x-quality, choose: {best: premium}, fallback: [cheap]}"
)
BY_SUBSCRIPTION = STATIC.replace("header, name: x-quality, choose: {best", "subscription, choose: {standard")
POLICIES = [
    # (the good text, what is written, what stands there instead, where in the policy, message, fix)
    (STATIC, "best: premium", "best: premum", ".choose.best", "no tier 'premum'", "did you mean `premium`?"),
    (STATIC, "fallback: [cheap]", "fallback: [chep]", ".fallback[0]", "no tier 'chep'", "did you mean `cheap`?"),
    (STATIC, "fallback: [cheap]", "default: xyz", ".default", "no tier 'xyz'", "the tiers are `cheap`, `premium`"),
    (STATIC, "[cheap]", "[cheap, cheap]", ".fallback[1]", "stands twice", "name it once"),
    (STATIC, "choose: {best: premium}, ", "", "", "has no `choose`", "kind: fixed"),
    (STATIC, "by: header, ", "", "", "doesn't say what chooses", "`subscription`, `header`, `parameter`"),
    (STATIC, "name: x-quality, ", "", "", "doesn't say which header", "name: x-quality"),
    (STATIC, "by: header, name: x-quality", "by: parameter", "", "which parameter", "name: quality"),
    (BY_SUBSCRIPTION, "subscription, ", "subscription, name: x, ", ".name", "`name` does nothing", "by: header"),
    (STATIC, "x-quality", "x quality", ".name", "can't be the name of a header", "x-quality"),
    (STATIC, "x-quality", "Authorization", ".name", "a meaning of its own", "another name"),
    (STATIC, "x-quality", "x-quality-bin", ".name", "ends in `-bin`", "`x-quality`"),
    (STATIC, "header, name: x-quality", "parameter, name: timeout", ".name", "the protocol's own", "quality"),
    (STATIC, "by: header", "by: heder", ".by", "can't be the text 'heder'", "did you mean `header`?"),
    (STATIC, "best: premium", "1: premium", ".choose", "a key must be text", '"1"'),
    (
        GOOD,
        "{kind: cascade}",
        "{kind: cascade, by: header}",
        ".by",
        "does nothing under the policy `cascade`",
        "static",
    ),
    (GOOD, "{kind: cascade}", "{kind: cascade, default: cheap}", ".default", "does nothing", "kind: static"),
    (BY_SUBSCRIPTION, "standard: premium", "standrd: premium", ".choose.standrd", "no tenant", "`standard`?"),
    (BY_SUBSCRIPTION, "standard: premium", "gold: premium", ".choose.gold", "no tenant", "are `standard`"),
]


@pytest.mark.parametrize(("good", "written", "instead", "where", "message", "fix"), POLICIES)
def test_a_policy_that_does_not_hold(
    tmp_path: Path, good: str, written: str, instead: str, where: str, message: str, fix: str
) -> None:
    assert problems_of(tmp_path, good) == ()
    text = good.replace(written, instead)
    (problem,) = problems_of(tmp_path, text)
    assert problem.where == "routes.digits.policy" + where
    assert message in problem.message
    assert fix in problem.fix
    assert problem.line == line_of(text, "policy:")


def test_a_subscription_may_be_declared_before_anybody_has_it(tmp_path: Path) -> None:
    text = BY_SUBSCRIPTION.replace("standard: premium", "gold: premium")
    assert problems_of(tmp_path, text + "subscriptions: {gold: {priority: 1}}\n") == ()
    assert problems_of(tmp_path, text + "    subscription: gold\n") == ()


def test_fallback_is_for_every_policy(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD.replace("{kind: cascade}", "{kind: cascade, fallback: []}")) == ()
    fixed = STATIC[: STATIC.index("{kind")] + "{fallback: [premium]}" + STATIC[STATIC.index("\n    slo") :]
    assert problems_of(tmp_path, fixed) == ()


KEPT = GOOD.replace("  acme:\n", "  acme:\n    content: {keep_days: 30, routes: [digits, small], sample: 0.5}\n")
CONTENT = [
    # (what is written, what stands there instead, where, message, fix)
    (
        "[digits, small]",
        "[digts]",
        "tenants.acme.content.routes[0]",
        "no route or model 'digts'",
        "did you mean `digits`?",
    ),
    (
        "[digits, small]",
        "[digits, xyz]",
        "tenants.acme.content.routes[1]",
        "no route or model 'xyz'",
        "for all of them",
    ),
    ("keep_days: 30, ", "", "tenants.acme.content", "'keep_days' is missing", "keep_days"),
    ("keep_days: 30", "keep_days: 0", "tenants.acme.content.keep_days", "the number 0", "from 1"),
    ("sample: 0.5", "sample: 0", "tenants.acme.content.sample", "the number 0", "above 0"),
    ("servery: 1\n", "servery: 1\ncontent: {keep_days: 1}\n", "content", "without tenants", "tenants.acme.content"),
    ("servery: 1\n", "servery: 1\nrecords: {content_key: abc}\n", "records.content_key", "the text 'abc'", "`env`"),
]


@pytest.mark.parametrize(("written", "instead", "where", "message", "fix"), CONTENT)
def test_content_that_does_not_hold(
    tmp_path: Path, written: str, instead: str, where: str, message: str, fix: str
) -> None:
    assert problems_of(tmp_path, KEPT) == ()
    text = KEPT.replace(written, instead)
    (problem,) = problems_of(tmp_path, text)
    assert problem.where == where
    assert message in problem.message, problem
    assert fix in problem.fix, problem


def test_content_without_tenants_is_declared_for_all(tmp_path: Path) -> None:
    alone = GOOD[: GOOD.index("tenants:")]
    assert problems_of(tmp_path, alone + "content: {keep_days: 30}\n") == ()
    (problem,) = problems_of(tmp_path, alone + "content: {keep_days: 30, routes: [digit]}\n")
    assert (problem.where, problem.fix) == ("content.routes[0]", "did you mean `digits`?")
