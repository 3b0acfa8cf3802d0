"""What a change means for money: prices, what all copies cost an hour, budgets and ceilings. Pure; in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.differences import shown
from servery.terms.change import Snapshot, Standing
from servery.terms.limits import Limits
from servery.terms.money import to_usd
from servery.terms.placement import placed
from servery.terms.routes import Ceiling

_BUDGETS = (
    ("usd_per_request", "dollars a request"),
    ("usd_per_day", "dollars a day"),
    ("usd_per_month", "dollars a month"),
    ("tokens_per_minute", "tokens a minute"),
)
_CEILINGS = (("mean_usd_per_million", "mean $ per million"), ("max_usd_per_inference", "$ per inference"))


def usd_per_hour(snapshot: Snapshot, name: str) -> float:
    """What all copies of a Model cost an hour; nothing for one that was unloaded."""
    model, served = snapshot.manifest.models.get(name), snapshot.models.get(name)
    if model is None or served is None or served.standing is Standing.UNLOADED or model.price is None:
        return 0.0
    return (model.price.usd_per_hour or 0.0) * placed(snapshot, name)


def of_model(name: str, before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The price of a Model, its hours, its budget."""
    old, new = _tokens(before, name), _tokens(after, name)
    if old != new:
        yield f"{old or 'no price'} → {new or 'no price'}"
    hours = usd_per_hour(before, name), usd_per_hour(after, name)
    if hours[0] != hours[1]:
        yield f"{hours[0]:.4g} → {hours[1]:.4g} $ an hour for all its copies"
    models = [one.manifest.models.get(name) for one in (before, after)]
    yield from budgets(*(None if model is None else model.limits for model in models))


def _tokens(snapshot: Snapshot, name: str) -> str:
    """What a million tokens cost, of a language model whose price is known."""
    served = snapshot.models.get(name)
    price = None if served is None else served.latest.price
    if price is None or not (price.input or price.output):
        return ""
    return (
        f"{to_usd(price.input * 10**6):.4g} $ read and {to_usd(price.output * 10**6):.4g} $ written (a million tokens)"
    )


def budgets(old: Limits | None, new: Limits | None) -> list[str]:
    """What may be spent, before and after."""
    said: list[str] = []
    for key, what in _BUDGETS:
        before, after = getattr(old, key, None), getattr(new, key, None)
        if before != after:
            said.append(f"{what}: {shown(before) or 'any'} → {shown(after) or 'any'}")
    for key in ("when_spent", "mode"):
        before, after = getattr(old, key, None), getattr(new, key, None)
        if old is not None and new is not None and before != after:
            said.append(f"{key}: {before} → {after}")
    return said


def limits(old: Limits, new: Limits) -> Iterator[str]:
    """How much a tenant may ask, before and after: sentences for callers."""
    for key, what in (
        ("requests_per_minute", "requests a minute"),
        ("concurrency_per_worker", "requests at once in a worker"),
    ):
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            more = f"more than {after} {what} are refused (429)" if after is not None else f"any number of {what}"
            yield f"{more}, until now {f'more than {before}' if before is not None else 'none'}"


def ceilings(old: Ceiling | None, new: Ceiling | None) -> Iterator[str]:
    """What a Route promises of its cost, before and after."""
    for key, what in _CEILINGS:
        before, after = getattr(old, key, None), getattr(new, key, None)
        if before != after:
            yield f"promised: {what} {shown(before) or 'any'} → {shown(after) or 'any'}"
