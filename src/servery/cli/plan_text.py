"""A Plan as it is read in a terminal."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator

import typer

from servery.terms.history import Held
from servery.terms.plan import Act, Plan, Step

_SIGNS = {
    Act.ADD: ("+", typer.colors.GREEN),
    Act.LOAD: ("+", typer.colors.GREEN),
    Act.REPLACE: ("±", typer.colors.YELLOW),
    Act.CHANGE: ("~", typer.colors.YELLOW),
    Act.RESTART: ("!", typer.colors.RED),
    Act.REMOVE: ("-", typer.colors.RED),
}
_WORDS = {
    Act.ADD: "to add",
    Act.LOAD: "to load again",
    Act.REPLACE: "to replace",
    Act.CHANGE: "to change",
    Act.RESTART: "that only a new start can do",
    Act.REMOVE: "to remove",
}
_SHOWN = 20  # lines of a step; `-o json` has all


def plan_text(plan: Plan, coloured: bool) -> str:
    """All of it, for someone who is about to decide."""
    return "\n".join(_lines(plan, coloured))


def _lines(plan: Plan, coloured: bool) -> Iterator[str]:
    for step in plan.steps:
        sign, colour = _SIGNS[step.act]
        head = f"{sign} {step.where}" + (f"  ({step.how})" if step.act is Act.REPLACE else "")
        yield "  " + (typer.style(head, fg=colour) if coloured else head)
        told = list(_told(step))
        yield from (f"      {line}" for line in told[:_SHOWN])
        if len(told) > _SHOWN:
            yield f"      … and {len(told) - _SHOWN} more lines, which -o json shows"
    if plan.steps:
        yield ""
    if plan.held:
        yield "Held, and not served again unless --retry says why:"
        yield from (f"  {held_text(held)}" for held in plan.held)
        yield ""
    if plan.apart:
        yield "Served otherwise than it is declared:"
        yield from (f"  {one.where}: {one.why}" for one in plan.apart)
        yield ""
    yield _total(plan)


def _told(step: Step) -> Iterator[str]:
    if step.act is not Act.REMOVE:
        for one in step.differences:
            name = one.where.removeprefix(step.where).lstrip(". ") or step.where
            yield f"{name}: {one.after}" if step.act is Act.ADD else f"{name}: {one.before or '–'} → {one.after or '–'}"
    yield from (f"callers: {line}" for line in step.callers)
    yield from (f"money: {line}" for line in step.money)


def _total(plan: Plan) -> str:
    if not plan.steps:
        return f"Nothing to change: what is declared is served (revision {plan.revision}, epoch {plan.epoch})."
    counted = Counter(step.act for step in plan.steps)
    said = ", ".join(f"{counted[act]} {_WORDS[act]}" for act in Act if counted[act])
    before, after = plan.usd_per_hour
    hours = f" All copies: {before:.4g} → {after:.4g} $ an hour." if before != after else ""
    return f"Plan: {said}.{hours}"


def held_text(held: Held) -> str:
    """One Version that is held."""
    return f"models.{held.model}: version {held.digest[:12]}, since {moment(held.since_ns)} by {held.who}: {held.why}"


def moment(at_ns: int) -> str:
    """A time, in UTC to the second."""
    return datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
