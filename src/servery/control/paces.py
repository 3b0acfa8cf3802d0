"""Can thresholds follow the traffic as it is declared? Their ranges, and the shares that they should keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.places import Places, at
from servery.terms.change import Problem
from servery.terms.routes import Route

_SLACK = 1e-9  # 0.6 + 0.3 + 0.1 is not quite 1


def check_pacing(route: Route, where: str, places: Places) -> Iterator[Problem]:
    """What can't hold of the ranges and shares of one Route."""
    yield from _of_scores(route, at(where, "policy"), places)
    yield from _of_confidences(route, where, places)
    yield from _shares(route, where, places)
    yield from _explored(route, where, places)


def check_learned(route: Route, threshold: float, where: str, places: Places) -> Iterator[Problem]:
    """Whether the range holds the threshold of a trained router, where that counts."""
    policy = route.policy
    if len(policy.ranges) == 1 and not policy.thresholds:
        yield from check_range(threshold, policy.ranges[0], at(where, "policy", "ranges", 0), places)


def check_range(threshold: float, bounds: tuple[float, float], where: str, places: Places) -> Iterator[Problem]:
    """Whether a range is one, and holds the threshold. `where` is the range."""
    low, high = bounds
    if low > high:
        yield places.problem(where, f"the range [{low:g}, {high:g}] is upside down", f"write [{high:g}, {low:g}]")
    elif not low <= threshold <= high:
        message = f"the threshold {threshold:g} lies outside of its range [{low:g}, {high:g}]"
        yield places.problem(where, message, "widen the range, or move the threshold into it")


def _of_scores(route: Route, here: str, places: Places) -> Iterator[Problem]:
    policy, place = route.policy, at(here, "ranges")
    if not policy.ranges:
        return
    if policy.kind != "complexity":
        message = f"`ranges` does nothing under the policy `{policy.kind}`"
        fix = "write `range` into the tiers' `accept`" if policy.kind == "cascade" else "remove it"
        yield places.problem(place, message, fix)
        return
    wanted = len(policy.thresholds) or len(route.tiers) - 1
    if len(policy.ranges) != wanted:
        fix = f"write {wanted}, in the order of the thresholds; one that may not move has the same number twice"
        yield places.problem(place, f"{wanted} thresholds have {len(policy.ranges)} ranges", fix)
        return
    for index, bounds in enumerate(policy.ranges):
        threshold = policy.thresholds[index] if policy.thresholds else min(max(0.0, bounds[0]), bounds[1])
        yield from check_range(threshold, bounds, at(place, index), places)
    mean = None if route.ceiling is None else route.ceiling.mean_usd_per_million
    if mean is None and all(tier.share is None for tier in route.tiers):
        message = "nothing would move the thresholds: no mean ceiling and no `share` is to be kept"
        fix = "add for instance `ceiling: {mean_usd_per_million: 500}`, or `share` to a tier; or remove it"
        yield places.problem(place, message, fix)


def _of_confidences(route: Route, where: str, places: Places) -> Iterator[Problem]:
    for index, tier in enumerate(route.tiers):
        if tier.accept is None or tier.accept.range is None:
            continue
        here = at(where, "tiers", index, "accept", "range")
        yield from check_range(tier.accept.confidence, tier.accept.range, here, places)
        if tier.accept.check == "json_schema":
            message = "the check `json_schema` says 0 or 1: there is nothing between for a threshold to move over"
            yield places.problem(here, message, "remove the range, or write another check")
        if index == len(route.tiers) - 1:
            message = f"{tier.name!r} is the last tier, which answers all that is left: its threshold decides nothing"
            yield places.problem(here, message, "remove it")


def _shares(route: Route, where: str, places: Places) -> Iterator[Problem]:
    bands = [tier.share for tier in route.tiers if tier.share is not None]
    for index, tier in enumerate(route.tiers):
        if tier.share is not None and tier.share[0] > tier.share[1]:
            low, high = tier.share
            here = at(where, "tiers", index, "share")
            yield places.problem(here, f"the band [{low:g}, {high:g}] is upside down", f"write [{high:g}, {low:g}]")
    lows, highs = sum(low for low, _ in bands), sum(high for _, high in bands)
    if lows > 1 + _SLACK:
        yield places.problem(
            at(where, "tiers"), f"the lowest shares add up to {lows:g}, more than 1", "lower some `share`"
        )
    elif len(bands) == len(route.tiers) and highs < 1 - _SLACK:
        yield places.problem(
            at(where, "tiers"), f"the highest shares add up to {highs:g}, less than 1", "raise some `share`"
        )


def _explored(route: Route, where: str, places: Places) -> Iterator[Problem]:
    """What is drawn is out of the thresholds' hands: the last tier's part of it at least, and not the first tier's."""
    explore, tiers = route.policy.explore, len(route.tiers)
    if not explore or tiers < 2:
        return
    first, last = route.tiers[0].share, route.tiers[-1].share
    most, least = 1 - explore * (tiers - 1) / tiers, explore / tiers
    if first is not None and first[0] > most + _SLACK:
        message = f"`explore: {explore:g}` leaves this tier {most:g} of the requests at most"
        yield places.problem(at(where, "tiers", 0, "share"), message, "lower the share, or explore less")
    if last is not None and last[1] < least - _SLACK:
        message = f"`explore: {explore:g}` sends {least:g} of the requests here at least"
        yield places.problem(at(where, "tiers", tiers - 1, "share"), message, "raise the share, or explore less")
