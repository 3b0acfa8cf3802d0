"""Experiments as they are declared: each case is one change to a manifest that is good. And what can't change while one runs."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from servery.control.declare import declare
from servery.control.frozen import carried, frozen, why_frozen
from servery.control.places import Places
from servery.control.validate import validate
from servery.terms.change import Problem, Served, Snapshot, Version
from servery.terms.experiments import Experiment
from servery.terms.tensors import Signature, TensorSpec

GOOD = """\
servery: 1
models:
  small: {runtime: onnx, artifact: small.onnx, confidence: {output: probabilities}, price: {usd_per_hour: 0.05}}
  tiny: {runtime: onnx, artifact: tiny.onnx, confidence: {output: probabilities}, price: {usd_per_hour: 0.01}}
  large: {runtime: onnx, artifact: large.onnx, price: {usd_per_hour: 0.5}, region: us}
  odd: {runtime: onnx, artifact: odd.onnx, price: {usd_per_hour: 0.5}}
  talk: {runtime: heuristic, replies: [{pattern: ".", reply: hello}]}
routes:
  digits:
    policy: {kind: cascade}
    tiers:
      - {name: cheap, model: small, accept: {confidence: 0.95}}
      - {name: premium, model: large}
experiments:
  bolder:
    route: digits
    unit: {header: x-user-id}
    arms:
      - {name: control, share: 0.5}
      - {name: bold, share: 0.5, accept: {cheap: 0.8}}
    primary: {metric: cost, margin: 0.05}
    guardrails:
      - {metric: errors, margin: 0.01}
"""
PLAIN = Signature(
    inputs=(TensorSpec("x", "FP32", (-1, 64)),),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 10))),
)
ODD = msgspec.structs.replace(PLAIN, inputs=(TensorSpec("x", "FP32", (-1, 32)),))
BOLD = "      - {name: bold, share: 0.5, accept: {cheap: 0.8}}\n"


def served(name: str) -> Served:
    return Served((Version(name, "1", name.ljust(64, "0"), name, signature=ODD if name == "odd" else PLAIN),))


def declared_in(tmp_path: Path, text: str) -> tuple[Snapshot, Places, tuple[Problem, ...]]:
    path = tmp_path / "servery.yaml"
    path.write_text(text)
    found = declare(path)
    assert found.sound is not None
    models = {name: served(name) for name in found.sound.models}
    problems = (*found.problems, *validate(found.sound, models, found.places))
    return Snapshot(1, found.sound, found.digest, models), found.places, problems


def test_an_experiment_that_holds_has_no_problems(tmp_path: Path) -> None:
    assert declared_in(tmp_path, GOOD)[2] == ()
    other = GOOD.replace("accept: {cheap: 0.8}}", "models: {cheap: tiny}}")
    assert declared_in(tmp_path, other)[2] == ()
    whole = GOOD.replace("accept: {cheap: 0.8}}", "policy: {kind: fixed}, tiers: [{name: only, model: large}]}")
    assert declared_in(tmp_path, whole)[2] == ()


def arm(written: str) -> tuple[str, str]:
    return BOLD, f"      - {{name: bold, share: 0.5{written}}}\n"


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("route: digits", "route: digit"), 16, "there is no route 'digit' → did you mean `digits`?"),
        (("share: 0.5}", "share: 0.4}"), 18, "the shares add up to 0.9, not to 1"),
        (("name: bold", "name: control"), 20, "two arms are called 'control'"),
        (("name: bold", "name: excluded"), 20, "`excluded` means something of its own"),
        (arm(""), 20, "the arm 'bold' is the same as the control"),
        (arm(", accept: {cheap: 0.95}"), 20, "the arm 'bold' is the same as the control"),
        (arm(", accept: {cheep: 0.8}"), 20, "this route has no tier 'cheep' → did you mean `cheap`?"),
        (arm(", accept: {premium: 0.8}"), 20, "the tier 'premium' has no `accept`"),
        (arm(", models: {cheap: smal}"), 20, "there is no model 'smal' → did you mean `small`?"),
        (arm(", models: {cheap: large}"), 20, "the model 'large' does not say how sure it is"),
        (arm(", thresholds: [0.3]"), 20, "`thresholds` does nothing under the policy `cascade`"),
        (arm(", models: {premium: odd}"), 20, "take different inputs"),
        (arm(", policy: {kind: fixed}, tiers: [{name: a, model: odd}]"), 20, "it can't be asked what the control is asked"),
        (arm(", policy: {kind: fixed}, tiers: [{name: a, model: talk}]"), 20, "it answers in text, and the route in tensors"),
        (("share: 0.5}\n", "share: 0.5, accept: {cheap: 0.5}}\n"), 19, "the first arm is the control"),
        (("{header: x-user-id}", "{}"), 17, "a unit is named by a header or by a parameter"),
        (("metric: errors", "metric: feedback"), 23, "a metric of feedback needs the `name`"),
        (("metric: errors, margin: 0.01", "metric: errors, margin: 1"), 23, "tolerates an arm that always fails"),
        (("metric: errors", "metric: cost"), 23, "experiments.bolder.primary is the same metric"),
        ((", price: {usd_per_hour: 0.5}, region", ", region"), 21, "no price is known for 'large'"),
        (("metric: errors", "metric: errors, quantile: 0.9"), 23, "`errors` has no quantile"),
        (("metric: errors", "metric: latency, per: unit, quantile: 0.9"), 23, "a quantile is that of all requests"),
        (("metric: errors", "metric: latency, quantile: 0.4"), 23, "a quantile of 0.4 can't be compared → write one from 0.5"),
        (("metric: errors", "metric: latency, quantile: 0.9999"), 23, "a quantile of 0.9999 can't be compared"),
        (("    primary", "    segments: {header: x-plan, values: [free, other]}\n    primary"), 21, "`other` are the units that say none"),
        (("    primary", "    segments: {header: x-plan, values: [pro, pro]}\n    primary"), 21, "'pro' is there twice"),
        (("    primary", "    false_winners: 1\n    primary"), 21, "a risk of 1 can't be kept"),
        (("    unit: {header: x-user-id}", "    before_s: 60"), 17, "nobody who came before comes again"),
        (("    primary", "    units: 200\n    primary"), 21, "200 units are expected, and below 1000 nothing is said"),
        (("confidence: 0.95", "confidence: 0.95, range: [0.9, 0.99]"), 19, "thresholds that follow the traffic"),
        (("\nexperiments:", "\n    limits: {usd_per_month: 5}\nexperiments:"), 14, "would share this budget"),
    ],
)  # fmt: skip
def test_each_thing_that_cannot_hold_is_told_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    assert change[0] in GOOD
    _, _, problems = declared_in(tmp_path, GOOD.replace(*change, 1))
    found = [str(one) for one in problems]
    assert any(said in one and f"servery.yaml:{line}:" in one for one in found), found


def running(snapshot: Snapshot) -> Snapshot:
    design = snapshot.manifest.experiments["bolder"]
    return msgspec.structs.replace(snapshot, experiments={"bolder": Experiment("x1", "bolder", design, 0)})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("metric: cost", "metric: errors, per: unit"), ["experiments.bolder"]),
        (("confidence: 0.95", "confidence: 0.9"), ["routes.digits"]),
        (("usd_per_hour: 0.05", "usd_per_hour: 0.06"), ["models.small"]),
        (("usd_per_hour: 0.01", "usd_per_hour: 0.06"), []),
        (("experiments:", "tenants: {}\nexperiments:"), []),
    ],
)
def test_what_a_running_experiment_needs_stays_as_it_is(
    tmp_path: Path, change: tuple[str, str], where: list[str]
) -> None:
    serving = running(declared_in(tmp_path, GOOD)[0])
    wanted, places, _ = declared_in(tmp_path, GOOD.replace(*change, 1))
    found = list(frozen(serving, wanted, places))
    assert [one.where for one in found] == where
    assert all(one.line and "servery experiment stop bolder" in one.fix for one in found)


def test_so_does_the_version_of_each_model_that_an_arm_asks(tmp_path: Path) -> None:
    wanted, places, _ = declared_in(tmp_path, GOOD)
    serving = running(wanted)
    other = {**wanted.models, "large": Served((Version("large", "2", "f" * 64, "large"),))}
    (found,) = frozen(serving, msgspec.structs.replace(wanted, models=other), places)
    assert "whose version can't change meanwhile" in found.message
    assert "'bolder'" in why_frozen("large", serving)
    assert why_frozen("tiny", serving) == ""
    assert list(frozen(wanted, msgspec.structs.replace(wanted, models=other), places)) == []


def test_the_example_of_the_page_holds(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text("utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert declared_in(tmp_path, example)[2] == ()


def test_an_experiment_goes_on_over_a_new_start_unless_what_it_compares_was_changed(tmp_path: Path) -> None:
    wanted, _, _ = declared_in(tmp_path, GOOD)
    serving = running(wanted)
    assert carried(serving, wanted) == (serving, ())
    changed, _, _ = declared_in(tmp_path, GOOD.replace("confidence: 0.95", "confidence: 0.9"))
    without, said = carried(serving, changed)
    assert without.experiments == {}
    assert "the experiment 'bolder' has ended: routes.digits" in said[0]
    gone, _, _ = declared_in(tmp_path, "servery: 1\nmodels:\n" + GOOD.partition("models:\n")[2].partition("routes:")[0])
    assert carried(serving, gone)[0].experiments == {}
