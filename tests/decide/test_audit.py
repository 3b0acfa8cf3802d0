"""The audit's seals: whatever is done to the entries afterwards is found, and told."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from servery.terms.audit import BEGINNING, Draft, Entry, Head, faults, sealed

Entries = list[Entry]
replace = msgspec.structs.replace


def chain(count: int) -> tuple[Entries, dict[int, str]]:
    last, entries = Head(0, BEGINNING), list[Entry]()
    for number in range(1, count + 1):
        draft = Draft(number * 10**9, "root", f"reason {number}", "apply", evidence='{"x": 1}')
        entries.append(sealed(draft, last))
        last = Head(number, entries[-1].seal)
    return entries, {entry.number: entry.seal for entry in entries}


def resealed(entries: Entries, last: Head | None = None) -> Entries:
    """The same entries with seals that fit: what somebody does who knows how they are made."""
    last = last or Head(0, BEGINNING)
    made: Entries = []
    for entry in entries:
        fields = {name: getattr(entry, name) for name in Draft.__struct_fields__}
        made.append(sealed(Draft(**fields), last))
        last = Head(made[-1].number, made[-1].seal)
    return made


def test_what_is_whole_has_no_fault() -> None:
    for count in (0, 1, 9):
        entries, heads = chain(count)
        assert list(faults(entries, heads)) == []
        assert list(faults(entries, heads, [Head(entry.number, entry.seal) for entry in entries])) == []


def test_one_entry_may_be_ahead_of_its_head() -> None:
    """Whoever wrote it was killed in between."""
    entries, heads = chain(5)
    del heads[5]
    assert list(faults(entries, heads)) == []
    del heads[4]
    [told] = faults(entries, heads)
    assert told == "no head was written for entries 4 to 5: they were added, or the heads were cut off"


def cut(entries: Entries) -> Entries:
    return entries[:-2]


def gap(entries: Entries) -> Entries:
    return [*entries[:3], *entries[4:]]


def edit(entries: Entries) -> Entries:
    return [*entries[:3], replace(entries[3], why="another reason"), *entries[4:]]


def swap(entries: Entries) -> Entries:
    """Two entries change places, and take each other's numbers."""
    one, two = entries[3], entries[4]
    return [*entries[:3], replace(two, number=4), replace(one, number=5), *entries[5:]]


def doctored(entries: Entries) -> Entries:
    """An entry is altered, and every seal from there on made again."""
    before = entries[:3]
    return [*before, *resealed([replace(entries[3], who="nobody"), *entries[4:]], Head(3, before[-1].seal))]


def closed(entries: Entries) -> Entries:
    """An entry is taken out, those behind it move up, and every seal is made again."""
    return resealed(gap(entries))


def emptied(_: Entries) -> Entries:
    return []


def beheaded(entries: Entries) -> Entries:
    """The first ones are taken out, and all seals made again."""
    return resealed(entries[3:])


def added(entries: Entries) -> Entries:
    return [*entries, *resealed([entries[0]] * 2, Head(9, entries[8].seal))]


def out_of_order(entries: Entries) -> Entries:
    return [entries[1], entries[0], *entries[2:]]


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (cut, "entries 8 to 9 are missing: they were cut off at the end"),
        (gap, "entry 4 is missing"),
        (edit, "entry 4 was altered"),
        (swap, "entry 4 was altered"),
        (doctored, "entry 4 is another one than was written first"),
        (closed, "entry 4 is another one than was written first"),
        (emptied, "entries 1 to 9 are missing: they were cut off at the end"),
        (beheaded, "entry 1 is another one than was written first"),
        (added, "no head was written for entries 10 to 11"),
        (out_of_order, "is missing"),
    ],
)  # fmt: skip
def test_every_way_to_tamper_is_found(tamper: Callable[[Entries], Entries], told: str) -> None:
    entries, heads = chain(9)
    assert any(told in fault for fault in faults(tamper(entries), heads)), list(faults(tamper(entries), heads))


def test_heads_that_were_cut_or_thinned_are_found() -> None:
    entries, heads = chain(9)
    assert list(faults(entries, {}))
    assert list(faults(entries, {number: seal for number, seal in heads.items() if number < 7}))
    [told] = faults(entries, {number: seal for number, seal in heads.items() if number != 4})
    assert told == "heads are missing, the first of them that of entry 4"


def test_who_wrote_down_a_head_finds_what_was_altered_together_with_all_heads() -> None:
    entries, _ = chain(9)
    noted = Head(6, entries[5].seal)
    made = doctored(entries)
    heads = {entry.number: entry.seal for entry in made}
    assert list(faults(made, heads)) == []  # this is what can't be found without
    assert list(faults(made, heads, [noted])) == [f"entry 6 is not the one whose head is {noted.seal}"]
    assert list(faults(made[:4], {number: seal for number, seal in heads.items() if number < 5}, [noted]))


@settings(deadline=None)
@given(st.data())
def test_any_change_of_any_field_is_found(data: st.DataObject) -> None:
    entries, heads = chain(4)
    at = data.draw(st.integers(0, 3))
    field = data.draw(st.sampled_from(Entry.__struct_fields__))
    old = getattr(entries[at], field)
    new: object = data.draw(st.integers(0, 99) if isinstance(old, int) else st.text(max_size=9))
    assume(new != old)
    entries[at] = replace(entries[at], **{field: new})
    assert list(faults(entries, heads))
