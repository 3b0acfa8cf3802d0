"""Judge: what each guard of a Rollout says of the harm that the candidate does, by bounds that hold at every look. Pure.

The chance of a false rollback is split evenly over the guards. It needn't be split over steps or looks, as a confidence
sequence holds for all of them together (`stats.mean_harm`). A guard that says wrongly that a harm of its margin has passed
may do so with the declared chance of its own: promotion needs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from servery.control.evidence import Draw, Evidence, Totals
from servery.stats.mean_harm import MeanHarm
from servery.stats.quantile_harm import QuantileHarm
from servery.stats.ratio_check import RatioCheck
from servery.stats.shares import quantile_bounds, slower_evidence
from servery.stats.sketch import Sketch, edge
from servery.stats.windows import Bounds, Sums, Window, hits
from servery.terms.folds import Told
from servery.terms.money import from_usd
from servery.terms.rollouts import Guard, Looked, RolloutPolicy, Verdict

_UNEVEN = 0.001  # a split with a smaller p-value is not the declared one
_EXCLUDED = 0.01  # of the calls may come without their unit
_NOTHING = (Sums(), Sums())
_EMPTY = Sketch().to_bytes()


class Means(msgspec.Struct, tag="means"):
    """A mean's sequence, and what of each draw it has seen: the incumbent's sums and the candidate's; `exact` while those are known."""

    harm: MeanHarm
    seen: dict[Draw, tuple[Sums, Sums]] = {}
    exact: dict[Draw, tuple[Sums, Sums]] = {}


class Times(msgspec.Struct, tag="times"):
    """A quantile's sequence, and the sketches of each draw that it has seen."""

    harm: QuantileHarm
    seen: dict[Draw, tuple[bytes, bytes]] = {}


class Split(msgspec.Struct):
    """Whether the arms get their shares, and the Requests of each draw that it has seen: the incumbent's, the candidate's."""

    ratio: RatioCheck = RatioCheck()
    seen: dict[Draw, tuple[int, int]] = {}


class State(msgspec.Struct):
    """What a Judge has come to."""

    guards: list[Means | Times]
    split: Split


class Judge:
    """One Rollout's. What it has come to is a value that can be kept, so that a controller that starts again goes on from it."""

    def __init__(self, policy: RolloutPolicy, state: bytes | None = None) -> None:
        self._policy = policy
        self._alpha = policy.false_rollbacks / sum(1 + (guard.most_ms is not None) for guard in policy.guards)
        begun = State([_begun(guard) for guard in policy.guards], Split())
        self._state = msgspec.msgpack.decode(state, type=State) if state else begun

    def learn(self, before: Totals) -> None:
        """What the incumbent was like before anything was compared: bets are sized by it."""
        for guard, followed in zip(self._policy.guards, self._state.guards, strict=True):
            if isinstance(followed, Times):
                followed.harm = followed.harm.after(0.0, before.times, Sketch())
            elif guard.metric in ("errors", "cost"):
                sums = _sums(guard, before) if guard.metric == "errors" else before.priced
                if sums is not None and sums.fits(_cap(guard)):
                    followed.harm = followed.harm.after(Window(0.0, sums, Sums()))

    def state(self) -> bytes:
        """What it has come to."""
        return msgspec.msgpack.encode(self._state)

    def look(self, evidence: Evidence) -> tuple[Looked, ...]:
        """What the guards say by now; one look of its own where too few units are known for any of them to hold."""
        excluded = sum(seen.excluded for seen in evidence.values())
        compared = sum(seen.incumbent.calls + seen.candidate.calls + sum(seen.again) for seen in evidence.values())
        if excluded > _EXCLUDED * (excluded + compared):
            share = excluded / (excluded + compared)
            said = f"{share:.1%} of the calls came without their unit, and at most {_EXCLUDED:.0%} may"
            return (Looked("units", Verdict.INVALID, 0, 1, _EXCLUDED, excluded, compared, said),)
        if (split := self._split(evidence)) is not None:
            return (split,)
        looks: list[Looked] = []
        for guard, followed in zip(self._policy.guards, self._state.guards, strict=True):
            if isinstance(followed, Times):
                looks += self._times(guard, followed, evidence)
            else:
                looks.append(self._means(guard, followed, evidence))
        return tuple(looks)

    def _split(self, evidence: Evidence) -> Looked | None:
        """What is wrong with the split itself."""
        split = self._state.split
        for draw, seen in evidence.items():
            now = (seen.incumbent.requests, seen.candidate.requests)
            before = split.seen.get(draw, (0, 0))
            fresh = (now[0] - before[0], now[1] - before[1])
            if any(fresh) and min(fresh) >= 0:
                share = draw.share(self._policy)
                split.ratio = split.ratio.after((1 - share, share), fresh)
                split.seen[draw] = now
        if split.ratio.p >= _UNEVEN:
            return None
        met = [sum(one[arm] for one in split.seen.values()) for arm in (0, 1)]
        said = (
            f"{met[1]} requests of {sum(met)} met the candidate, which is not its share: what is compared isn't alike"
        )
        return Looked("split", Verdict.INVALID, split.ratio.p, 1, _UNEVEN, met[0], met[1], said)

    def _means(self, guard: Guard, followed: Means, evidence: Evidence) -> Looked:
        if _outside(guard, evidence):
            said = f"{named(guard)} had values outside of {guard.bounds[0]:g} to {guard.bounds[1]:g}, so nothing holds"
            return Looked(named(guard), Verdict.INVALID, -1, 1, guard.margin, 0, 0, said)
        for draw, seen in evidence.items():
            sums = (_sums(guard, seen.incumbent), _sums(guard, seen.candidate))
            before = followed.seen.get(draw, _NOTHING)
            if sums == before:
                continue
            fresh = _fresh(followed, draw, sums, (_exactly(guard, seen.incumbent), _exactly(guard, seen.candidate)))
            if all(one.fits(_cap(guard)) for one in fresh):
                share = draw.share(self._policy)
                followed.harm = followed.harm.after(Window(share, *_scaled(guard, fresh)))
                followed.seen[draw] = sums
        bounds = followed.harm.bounds(self._alpha, self._policy.false_promotions)
        both = [sum(int(arms[at].n) for arms in followed.seen.values()) for at in (0, 1)]
        if guard.metric == "cost":
            bounds = _in_parts(guard, bounds, followed.harm.incumbent)
        return looked(named(guard), guard.margin, bounds, both[0], both[1])

    def _times(self, guard: Guard, followed: Times, evidence: Evidence) -> Iterator[Looked]:
        for draw, seen in evidence.items():
            sketches = (seen.incumbent.times, seen.candidate.times)
            told = (sketches[0].to_bytes(), sketches[1].to_bytes())
            before = followed.seen.get(draw)
            if told != before:
                old = [Sketch.from_bytes(one) for one in before or (_EMPTY, _EMPTY)]
                fresh = [now.less(then) for now, then in zip(sketches, old, strict=True)]
                followed.harm = followed.harm.after(draw.share(self._policy), *fresh)
                followed.seen[draw] = told
        candidate = Sketch()
        for seen in evidence.values():
            candidate.merge(seen.candidate.times)
        incumbents = sum(seen.incumbent.times.count for seen in evidence.values())
        bounds = followed.harm.bounds(self._alpha, self._policy.false_promotions)
        yield looked(named(guard), guard.margin, bounds, incumbents, candidate.count)
        if guard.most_ms is not None:
            yield self._within(guard, guard.most_ms, candidate)

    def _within(self, guard: Guard, most_ms: float, candidate: Sketch) -> Looked:
        """What of the absolute bound of a quantile is known."""
        risks = self._alpha, self._policy.false_promotions
        found = quantile_bounds(candidate, guard.quantile, *risks)
        low, high, name = found.low / 1e6, found.high / 1e6, f"{named(guard)} limit"
        if slower_evidence(candidate, guard.quantile, most_ms * 1e6, 1) >= math.log(1 / risks[0]):
            verdict, said = Verdict.WORSE, f"{named(guard)} is above {low:.4g} ms, and {most_ms:g} ms is the limit"
        elif slower_evidence(candidate, guard.quantile, most_ms * 1e6, -1) >= math.log(1 / risks[1]):
            verdict, said = Verdict.NO_DIFFERENCE, f"{named(guard)} is below {high:.4g} ms"
        else:
            verdict, said = Verdict.NOT_YET, f"{named(guard)} is between {low:.4g} and {high:.4g} ms: not yet decided"
        return Looked(name, verdict, low, high, most_ms, 0, candidate.count, said)


def looked(guard: str, margin: float, bounds: Bounds, incumbents: int, candidates: int) -> Looked:
    """The Verdict of bounds of the harm, in words too."""
    low, high = bounds.low, bounds.high
    if not (incumbents and candidates):
        verdict, said = Verdict.NOT_YET, f"{guard}: there are no calls of both versions yet"
    elif low >= margin:
        verdict, said = Verdict.WORSE, f"{guard} is worse by more than {low:.4g}, and {margin:.4g} is tolerated"
    elif high <= 0:
        verdict, said = Verdict.BETTER, f"{guard} is better by more than {-high:.4g}"
    elif high <= margin:
        verdict, said = Verdict.NO_DIFFERENCE, f"{guard} is worse by less than {high:.4g}"
    else:
        verdict, said = Verdict.NOT_YET, f"{guard} is worse by {low:.4g} to {high:.4g}: not yet decided"
    return Looked(guard, verdict, low, high, margin, incumbents, candidates, said)


def named(guard: Guard) -> str:
    """What a guard is called: `errors`, `latency p95`, `feedback label`."""
    match guard.metric:
        case "latency":
            return f"latency p{guard.quantile * 100:g}"
        case "feedback" | "output":
            return f"{guard.metric} {guard.name}"
        case _:
            return guard.metric


def _begun(guard: Guard) -> Means | Times:
    if guard.metric == "latency":
        return Times(QuantileHarm(guard.quantile, guard.margin))
    if guard.metric == "cost":
        # The candidate's come divided by 1 + margin: so far from the incumbent's is one that costs the same.
        return Means(MeanHarm(0.0, cap=_cap(guard), part=guard.margin / (1 + guard.margin)))
    return Means(MeanHarm(guard.margin, cap=_cap(guard)))


def _in_parts(guard: Guard, bounds: Bounds, incumbent: Sums) -> Bounds:
    """What is told of the candidate's dollars divided by 1 + margin, less the incumbent's, as parts of what the incumbent costs.

    That is known well enough to be told; whether the margin is kept doesn't depend on it.
    """
    cap = _cap(guard)
    mean = cap * max(incumbent.total / incumbent.n if incumbent.n else 1.0, 1e-9)
    low, high = (guard.margin + (1 + guard.margin) * bound / mean for bound in (bounds.low, bounds.high))
    return Bounds(max(low, -1.0), high)


def _cap(guard: Guard) -> float:
    """The greatest value, where the smallest is 0."""
    if guard.metric == "cost":
        return float(from_usd(guard.most_usd or 0))
    if guard.metric == "output" or (guard.metric == "feedback" and guard.better != "equal"):
        return guard.bounds[1] - guard.bounds[0]
    return 1.0


def _sums(guard: Guard, totals: Totals) -> Sums:
    """One arm's values from 0 to the cap, as a guard sees them: the greater, the worse."""
    if guard.metric == "errors":
        return hits(totals.errors, totals.calls)
    if guard.metric == "feedback":
        return _told(guard, totals.told.get(guard.name, Told()))
    if guard.metric == "output":
        return _told(guard, totals.measured.get(guard.name, Told()))
    cap = _cap(guard)
    capped = [(min(value, cap), count) for value, count in totals.prices.values()]
    return Sums(
        sum(count for _, count in capped),
        sum(value * count for value, count in capped),
        sum(value * value * count for value, count in capped),
    )


def _exactly(guard: Guard, totals: Totals) -> Sums | None:
    """The same where it is known exactly: prices aren't where one is above the cap, or a call had several rows."""
    if guard.metric != "cost":
        return None
    span, priced = totals.prices.span(), totals.priced
    known = priced is not None and priced.n == totals.prices.count
    return priced if known and (span is None or edge(span[1]) <= _cap(guard)) else None


def _told(guard: Guard, told: Told) -> Sums:
    if guard.better == "equal":
        return hits(told.judged - told.right, told.judged)
    least = guard.bounds[0]
    moved = Sums(told.n, told.total - told.n * least, told.squares - 2 * least * told.total + told.n * least * least)
    return moved.flipped(_cap(guard)) if guard.better == "higher" else moved


def _outside(guard: Guard, evidence: Evidence) -> bool:
    """Whether Feedback, or an output, had values that the guard's bounds don't hold."""
    if guard.metric not in ("feedback", "output") or guard.better == "equal":
        return False
    arms = [arm for seen in evidence.values() for arm in (seen.incumbent, seen.candidate)]
    of = [arm.told if guard.metric == "feedback" else arm.measured for arm in arms]
    told = [one[guard.name] for one in of if guard.name in one]
    return any(one.n and (one.low < guard.bounds[0] or one.high > guard.bounds[1]) for one in told)


def _fresh(followed: Means, draw: Draw, sums: tuple[Sums, Sums], exact: tuple[Sums | None, Sums | None]) -> list[Sums]:
    """What is new of both arms since the last look; exactly, as long as that has been known all the time."""
    before, incumbent, candidate = followed.seen.get(draw, _NOTHING), *exact
    known = followed.exact.get(draw, None if draw in followed.seen else _NOTHING)
    if incumbent is None or candidate is None or known is None:
        followed.exact.pop(draw, None)
        return [now.less(then) for now, then in zip(sums, before, strict=True)]
    followed.exact[draw] = (incumbent, candidate)
    return [now.less(then) for now, then in zip((incumbent, candidate), known, strict=True)]


def _scaled(guard: Guard, arms: list[Sums]) -> tuple[Sums, Sums]:
    """Both arms in one unit: a margin that is a part of the incumbent's value is held against 1 + margin times that."""
    incumbent, candidate = arms
    if guard.metric != "cost":
        return incumbent, candidate
    return incumbent, candidate.times(1 / (1 + guard.margin))
