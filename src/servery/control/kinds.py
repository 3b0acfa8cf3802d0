"""What the kinds of Rollouts need of a Model, and what of a rollout's declaration another kind means. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.checks import Unfit, prepared
from servery.control.places import Places, at, did_you_mean
from servery.control.text_checks import check_check
from servery.terms.change import Problem, Served
from servery.terms.manifest import Model
from servery.terms.placement import speaks
from servery.terms.rollouts import Alike, RolloutPolicy

# What only some kinds go by.
_OF = {
    "steps": ("canary",),
    "unit": ("canary", "rolling"),
    "checks": ("canary", "blue-green", "shadow", "rolling"),
    "min_requests": ("blue-green", "shadow", "rolling"),
    "bake_s": ("blue-green", "shadow", "rolling"),
    "max_duration_s": ("blue-green", "shadow", "rolling", "canary"),  # of a canary: its checks
    "share": ("shadow",),
    "mirror": ("shadow",),
    "alike": ("shadow",),
}
# What is bounded by itself, where nobody is compared.
_ALONE = {"blue-green": ("errors", "latency")}
_PLAIN = RolloutPolicy()
_MOST_REPLICAS = 32


def check_kind(policy: RolloutPolicy, where: str, places: Places) -> Iterator[Problem]:
    """What a rollout of this kind can't go by."""
    for key, kinds in _OF.items():
        if getattr(policy, key) != getattr(_PLAIN, key) and policy.kind not in kinds:
            message = f"`{key}` does nothing where the kind is `{policy.kind}`: it is for {' and '.join(kinds)}"
            yield places.problem(at(where, key), message, f"leave `{key}` out, or write `kind: {kinds[0]}`")
    if policy.kind in ("blue-green", "shadow", "rolling") and policy.bake_s > policy.max_duration_s:
        message = f"what bakes for {policy.bake_s:g} s can't be decided within {policy.max_duration_s:g} s"
        yield places.problem(at(where, "max_duration_s"), message, "allow more, or bake for less")
    alone = _ALONE.get(policy.kind, ())
    for index, guard in enumerate(policy.guards if alone else ()):
        here = at(where, "guards", index)
        if guard.metric not in alone:
            message = f"with `{policy.kind}` the old version doesn't answer beside the new one, so its {guard.metric} can't be compared"
            yield places.problem(here, message, f"guard {' or '.join(alone)}, or write `kind: canary`")
        elif guard.metric == "latency" and guard.most_ms is None:
            message = f"with `{policy.kind}` latency isn't compared: without `most_ms` this guard bounds nothing"
            yield places.problem(here, message, "write what it may be at most, such as `most_ms: 50`")
    yield from _shadow(policy, where, places)
    if policy.kind != "canary":
        return
    for index, step in enumerate(policy.steps):
        if not 0 < step.share < 1:
            message = f"a step with the share {step.share:g} compares nothing"
            yield places.problem(at(where, "steps", index, "share"), message, "write a share between 0 and 1")


def _shadow(policy: RolloutPolicy, where: str, places: Places) -> Iterator[Problem]:
    for index, guard in enumerate(policy.guards):
        here = at(where, "guards", index)
        if guard.metric == "agreement" and policy.kind != "shadow":
            message = "only with `shadow` both versions answer the same calls, so that their answers can be compared"
            yield places.problem(here, message, "leave it out, or write `kind: shadow`")
        elif guard.metric == "agreement" and guard.margin >= 1:
            message = f"a margin of {guard.margin:g} tolerates answers that never agree"
            yield places.problem(at(here, "margin"), message, "write a share of rows, such as 0.02")
        elif guard.metric == "feedback" and policy.kind == "shadow":
            message = "with `shadow` no caller gets the new version's answers, so none can say how they were"
            yield places.problem(here, message, "guard `agreement`, or write `kind: canary`")


def check_outputs(name: str, model: Model, served: Served | None, places: Places) -> Iterator[Problem]:
    """Outputs that a guard can't watch."""
    signature = served.latest.signature if served is not None else None
    for index, guard in enumerate(model.rollout.guards):
        if guard.metric != "output":
            continue
        where = at("models", name, "rollout", "guards", index)
        spec = signature.output(guard.name) if signature is not None else None
        if speaks(model):
            message = "a language model has no outputs that are numbers"
            yield places.problem(where, message, "guard errors, latency, cost or feedback")
        elif guard.better == "equal":
            message = "an output isn't held against anything that it should equal"
            yield places.problem(at(where, "better"), message, "write `higher` or `lower`")
        elif not guard.name or (signature is not None and spec is None):
            known = [] if signature is None else [spec.name for spec in signature.outputs]
            message = (
                f"the model has no output {guard.name!r}" if guard.name else "a guard on an output needs its `name`"
            )
            fix = f"write one of {', '.join(known)}" if known else "write such as `name: score`"
            yield places.problem(at(where, "name") if guard.name else where, message, fix)
        elif spec is not None and spec.datatype in ("BYTES", "BF16"):
            yield places.problem(at(where, "name"), f"the output {guard.name!r} is no number", "guard another one")


def check_way(name: str, model: Model, served: Served | None, places: Places) -> Iterator[Problem]:
    """What of a Model can't be mirrored, compared, or replaced one by one."""
    policy, where = model.rollout, at("models", name, "rollout")
    if policy.kind == "rolling" and speaks(model):
        message = "a language model is asked at its endpoint, and has no Replicas to replace"
        yield places.problem(at(where, "kind"), message, "write `kind: canary`")
    elif policy.kind == "rolling" and (model.replicas or 1) < 2:
        message = "`rolling` replaces one Replica after the other, and this model has fewer than two"
        yield places.problem(at(where, "kind"), message, "write `replicas: 2` or more, or `kind: canary`")
    elif policy.kind == "rolling" and (model.replicas or 1) > _MOST_REPLICAS:
        message = f"`rolling` replaces up to {_MOST_REPLICAS} Replicas one after the other, and this model has {model.replicas}"
        yield places.problem(at(where, "kind"), message, "write `kind: canary`")
    if policy.kind != "shadow":
        return
    if speaks(model):
        yield from _mirrored_text(model, where, places)
        return
    signature = served.latest.signature if served is not None else None
    for index, output in enumerate(policy.alike.outputs if signature is not None else ()):
        if signature is not None and signature.output(output) is None:
            known = [spec.name for spec in signature.outputs]
            guess = did_you_mean(output, known)
            fix = f"write `{guess}`" if guess else f"write one of {', '.join(known)}"
            yield places.problem(at(where, "alike", "outputs", index), f"the model has no output {output!r}", fix)


def _mirrored_text(model: Model, where: str, places: Places) -> Iterator[Problem]:
    """What mirrored calls of a language model need."""
    policy = model.rollout
    if model.runtime != "heuristic" and policy.mirror.usd_per_hour is None:
        message = "each mirrored call of a language model is paid once more, and nothing here says how much that may be"
        yield places.problem(where, message, "write such as `mirror: {usd_per_hour: 2}`")
    if policy.alike != Alike():
        message = "`alike` is about tensors: answers in words agree where they are the same but for case, white space and the form of JSON"
        yield places.problem(at(where, "alike"), message, "leave it out")


def check_checks(name: str, model: Model, served: Served | None, places: Places) -> Iterator[Problem]:
    """Checks that the Model can't be asked."""
    checks, where = model.rollout.checks, at("models", name, "rollout", "checks")
    if not checks:
        return
    if speaks(model):
        for index, check in enumerate(checks):
            yield from check_check(check, at(where, index), places)
        return
    signature = served.latest.signature if served is not None else None
    for index, check in enumerate(checks):
        here = at(where, index)
        if check.asks or not check.inputs:
            message = "this model takes tensors: a check of it has `inputs` and what it must answer"
            yield places.problem(here, message, "write such as `{inputs: {x: [[1.5, 2]]}, outputs: {y: [3]}}`")
            continue
        if not check.outputs and not check.refused:
            yield places.problem(
                here, "a check that expects nothing passes always", "write `outputs`, or `refused: true`"
            )
        if signature is None:
            continue
        try:
            prepared(check, signature)
        except Unfit as unfit:
            if not (check.refused and unfit.where == "inputs"):
                yield places.problem(at(here, unfit.where), unfit.message, "write it as the model takes and gives it")
