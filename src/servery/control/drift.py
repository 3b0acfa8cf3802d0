"""Drift: what a Version is asked, says, and is judged in one window, beside how that was at first. Pure.

Every feature of every Version and tenant has a p-value under "nothing has changed"; over all of them a false alarm comes as rarely
as the manifest says. What has too little behind it isn't looked at, and is told so: no data is no good news.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from servery.control.places import Places, at, did_you_mean
from servery.stats.bins import bin_of, bucket_of
from servery.terms.change import Problem
from servery.terms.drift import Alarm, DriftLook, DriftPolicy, Judged, Shift
from servery.terms.manifest import Model
from servery.terms.placement import speaks
from servery.terms.record import Sketched, same
from servery.terms.tensors import Signature

LEAST_REFERENCE = 100  # values, before anything is compared with them
LEAST_WINDOW = 30
QUALITY = "quality"
NS = 10**9


class Window(msgspec.Struct, frozen=True):
    """Which window is looked at, and by Version the first one of its reference, counted from 1970."""

    model: str
    policy: DriftPolicy
    number: int
    references: Mapping[str, int]

    @property
    def since_ns(self) -> int:
        return self.number * self.policy.window_ns

    @property
    def until_ns(self) -> int:
        return (self.number + 1) * self.policy.window_ns

    def of(self, versions: Collection[str]) -> Window:
        """With the references of these Versions alone."""
        kept = {name: first for name, first in self.references.items() if name in versions}
        # Without any of them it waits for what there is.
        return msgspec.structs.replace(self, references=kept) if kept else self

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The stretches of time in which what is compared was counted, without those that overlap (ns since 1970)."""
        size, length = self.policy.window_ns, self.policy.reference_windows
        windows = {self.number}
        for first in self.references.values():
            if first + length <= self.number:
                windows |= set(range(first, first + length))
        return tuple([(one * size, (one + 1) * size) for one in sorted(windows)])


def window_of(model: str, policy: DriftPolicy, number: int, since: Mapping[str, int]) -> Window:
    """A window, with the references of Versions that have been counted since then (ns): from the first window that their traffic
    could fill, which is the next one unless that had hardly begun.
    """
    size = policy.window_ns
    return Window(model, policy, number, {name: (at_ns + size - size // 8) // size for name, at_ns in since.items()})


_Place = tuple[str, str, str, bool]  # version, tenant, feature, whether its bins are numbers'
_Counts = dict[_Place, Counter[int]]


def look(seen: Window, sketched: Iterable[Sketched], judged: Iterable[Judged]) -> DriftLook:
    """What a window holds beside the reference of each Version that was asked in it. Lines of other times don't count."""
    policy, size = seen.policy, seen.policy.window_ns
    reference: _Counts = defaultdict(Counter)
    window: _Counts = defaultdict(Counter)
    for now_ns, version, tenant, feature, ordered, bins in _all(sketched, judged):
        first, place = seen.references.get(version), now_ns // size
        if first is None or seen.number < first + policy.reference_windows:
            continue
        if place == seen.number:
            window[version, tenant, feature, ordered].update(bins)
        elif first <= place < first + policy.reference_windows:
            reference[version, tenant, feature, ordered].update(bins)
    shifts = _shifts(reference, window, policy)
    waits = "" if shifts else _waits(seen)
    days = policy.expected_days_between_false_alarms
    return DriftLook(seen.model, seen.since_ns, seen.until_ns, shifts, waits, days)


def _waits(seen: Window) -> str:
    """Why nothing could be compared."""
    ready = [one + seen.policy.reference_windows for one in seen.references.values()]
    if not ready:
        return "nothing has been counted yet"
    if seen.number >= min(ready):
        return "nothing was asked in this window"
    return f"the reference is not complete: windows still to come, {min(ready) - seen.number}"


def alarm_of(seen: DriftLook) -> Alarm | None:
    """What there is to tell of a look; None where nothing alarmed."""
    if not seen.alarmed:
        return None
    parts = [
        f"{one.feature} of version {one.version} for {one.tenant} (distance {one.distance:.3g}, p {one.p:.2g})"
        for one in seen.alarmed
    ]
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    return Alarm(seen.model, f"drift of {seen.model}: {', '.join(parts[:5])}{more}", seen)


def _all(
    sketched: Iterable[Sketched], judged: Iterable[Judged]
) -> Iterator[tuple[int, str, str, str, bool, Mapping[int, int]]]:
    """When, which Version, tenant and feature, whether it is a number, and counts by bin."""
    for line in sketched:
        for one in line.features:
            middle_ns = (line.since_ns + line.until_ns) // 2
            yield (
                middle_ns,
                line.version,
                line.tenant,
                one.feature,
                one.ordered,
                dict(zip(one.bins, one.counts, strict=True)),
            )
    for fact in judged:
        ordered, place = _judged(fact)
        yield fact.at_ns, fact.version, fact.tenant, QUALITY, ordered, {place: 1}


def _judged(fact: Judged) -> tuple[bool, int]:
    """Where a Feedback is counted: a number by its size, all else as right or wrong, or by what it says."""
    value = fact.value
    if isinstance(value, bool):
        return False, int(value)
    if fact.prediction is not None:
        return False, int(same(fact.prediction, value))
    return (False, bucket_of(value.encode())) if isinstance(value, str) else (True, bin_of(value))


def _shifts(reference: _Counts, window: _Counts, policy: DriftPolicy) -> tuple[Shift, ...]:
    from servery.stats.drift import alarms, aligned, compare  # noqa: PLC0415 numpy: only where something is watched

    places = sorted(window.keys() | {place for place in reference if place[:2] in {one[:2] for one in window}})
    looked = [place for place in places if _enough(reference, window, place)]
    risk = 1 / policy.windows_between
    shifts: dict[_Place, Shift] = {}
    for place in places:
        version, tenant, feature, ordered = place
        before, now = reference.get(place, Counter[int]()), window.get(place, Counter[int]())
        shift = Shift(version, tenant, feature, before.total(), now.total())
        if place in looked:
            found = compare(*aligned(before, now), risk / len(looked), ordered=ordered)
            if found is not None:
                shift = msgspec.structs.replace(shift, distance=found.distance, p=found.p, seen=found.seen)
        shifts[place] = shift
    p_values = [shift.p for shift in shifts.values() if shift.p is not None]
    if p_values:
        flags = iter(alarms(p_values, policy.windows_between).tolist())
        shifts = {
            place: shift if shift.p is None else msgspec.structs.replace(shift, alarm=next(flags))
            for place, shift in shifts.items()
        }
    return tuple(shifts.values())


def _enough(reference: _Counts, window: _Counts, place: _Place) -> bool:
    return (
        reference.get(place, Counter[int]()).total() >= LEAST_REFERENCE
        and window.get(place, Counter[int]()).total() >= LEAST_WINDOW
    )


def check_drift(name: str, model: Model, signatures: Sequence[Signature], places: Places) -> Iterator[Problem]:
    """What can't hold of `models.NAME.drift`."""
    policy, where = model.drift, at("models", name, "drift")
    if policy is None:
        return
    if policy.windows_between < 2:
        message = f"a false alarm every {policy.windows_between:.3g} windows is expected: an alarm would say nothing"
        yield places.problem(
            where, message, "write more `expected_days_between_false_alarms`, or a shorter `window_hours`"
        )
    if speaks(model) and policy.features:
        message = "a language model has no inputs by name: tokens of prompts and answers are watched by themselves"
        yield places.problem(at(where, "features"), message, "leave `features` out")
        return
    for index, feature in enumerate(policy.features):
        here = at(where, "features", index)
        if feature in policy.features[:index]:
            yield places.problem(here, f"the feature {feature!r} stands there twice", "leave one out")
        for signature in signatures[:1]:
            names = [spec.name for spec in signature.inputs]
            name_of, dot, column = feature.rpartition(".")
            if feature not in names and not (dot and column.isdigit() and name_of in names):
                guess = did_you_mean(name_of or feature, names)
                fix = f"did you mean {guess!r}?" if guess else f"its inputs are {', '.join(names)}"
                yield places.problem(here, f"the model has no input {feature!r}", fix)
