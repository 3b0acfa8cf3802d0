"""Whether a Model's Rollout, as it is declared, can be judged at all. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from servery.control.kinds import check_kind
from servery.control.places import Places, at
from servery.terms.change import Problem
from servery.terms.manifest import Model
from servery.terms.rollouts import AGES_S, Guard, RolloutPolicy, Unit


def check_rollout(name: str, model: Model, places: Places) -> Iterator[Problem]:
    """What can't hold of `models.NAME.rollout`."""
    where, policy = at("models", name, "rollout"), model.rollout
    if policy == RolloutPolicy():
        return
    if policy.kind == "at-once":
        yield places.problem(
            where, "the rest of a rollout does nothing where its kind is `at-once`", "write `kind: canary`"
        )
        return
    yield from check_kind(policy, where, places)
    yield from _steps(policy, where, places)
    if not policy.guards:
        message = "without a guard nothing would ever stop a harmful version"
        yield places.problem(
            at(where, "guards"), message, "leave `guards` out, or write `[{metric: errors, margin: 0.01}]`"
        )
    first: dict[tuple[object, ...], int] = {}
    for index, guard in enumerate(policy.guards):
        here = at(where, "guards", index)
        yield from _guard(guard, here, places)
        yield from _age(guard, policy, here, places)
        same = (guard.metric, guard.quantile if guard.metric == "latency" else "", guard.name)
        if first.setdefault(same, index) != index:
            yield places.problem(here, f"guards {first[same]} and {index} watch the same", "leave one of them out")
    if policy.unit is not None:
        yield from check_unit(policy.unit, at(where, "unit"), places)
    for risk in ("false_rollbacks", "false_promotions"):
        if not 0 < getattr(policy, risk) < 1:
            message = f"a risk of {getattr(policy, risk):g} can't be kept"
            yield places.problem(at(where, risk), message, "write a chance between 0 and 1, such as 0.05")


def _steps(policy: RolloutPolicy, where: str, places: Places) -> Iterator[Problem]:
    for index, (before, step) in enumerate(pairwise(policy.steps), 1):
        if step.share <= before.share:
            message = f"step {index} has the share {step.share:g}, and the one before it {before.share:g}: shares grow"
            yield places.problem(at(where, "steps", index, "share"), message, "order the steps by their shares")
    for index, step in enumerate(policy.steps):
        if step.bake_s > step.max_duration_s:
            message = f"a step that lasts at least {step.bake_s:g} s can't end within {step.max_duration_s:g} s"
            yield places.problem(at(where, "steps", index, "max_duration_s"), message, "allow more, or bake for less")


def _guard(guard: Guard, where: str, places: Places) -> Iterator[Problem]:
    if guard.metric == "errors" and guard.margin >= 1:
        message = f"a margin of {guard.margin:g} tolerates a version that always fails"
        yield places.problem(at(where, "margin"), message, "write a difference of shares, such as 0.01")
    if guard.metric == "cost" and guard.most_usd is None:
        message = "a guard on cost needs `most_usd`: without a bound one dear call could hide, or outweigh, all others"
        yield places.problem(where, message, "write what a row costs at most, such as `most_usd: 0.05`")
    if guard.metric == "feedback" and not guard.name:
        yield places.problem(
            where, "a guard on feedback needs the `name` of the feedback", "write such as `name: label`"
        )
    if guard.bounds[0] >= guard.bounds[1]:
        message = f"bounds from {guard.bounds[0]:g} to {guard.bounds[1]:g} hold nothing"
        yield places.problem(at(where, "bounds"), message, "write the smallest value first")


def _age(guard: Guard, policy: RolloutPolicy, where: str, places: Places) -> Iterator[Problem]:
    age, shortest = guard.within_s, min(step.max_duration_s for step in policy.steps)
    if age and age not in AGES_S:
        nearest = min(AGES_S, key=lambda one: abs(one - age))
        message = f"feedback isn't told apart at an age of {age} s, but at {', '.join(map(str, AGES_S))}"
        yield places.problem(at(where, "within_s"), message, f"write `within_s: {nearest}`")
    elif age >= shortest:
        message = f"calls are {age} s old before they count, and a step waits for at most {shortest:g} s"
        yield places.problem(at(where, "within_s"), message, "give every step a longer `max_duration_s`, or less here")


def check_unit(unit: Unit, where: str, places: Places) -> Iterator[Problem]:
    """Whether it says what names a unit."""
    if bool(unit.header) == bool(unit.parameter):
        message = "a unit is named by a header or by a parameter"
        yield places.problem(where, message, "write `unit: {header: x-user-id}`, or `unit: {parameter: user}`")
