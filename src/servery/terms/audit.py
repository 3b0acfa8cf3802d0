"""The audit: an entry for every change, each sealed with the one before it, so that none can be altered unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

# What the first entry is sealed with.
BEGINNING = "0" * 64


class Draft(msgspec.Struct, frozen=True):
    """What is to be remembered: who did what to what, why, on which evidence, and how it was before and after.

    `evidence`, `before` and `after` are JSON, kept as it is written here.
    """

    at_ns: int
    who: str
    why: str
    act: str
    subject: str = ""
    outcome: str = ""
    evidence: str = "{}"
    before: str = "{}"
    after: str = "{}"


class Entry(msgspec.Struct, frozen=True):
    """A Draft in its place. `seal` is the SHA-256, in hex, of all the rest as JSON: keys sorted, no spaces."""

    number: int
    at_ns: int
    who: str
    why: str
    act: str
    subject: str
    outcome: str
    evidence: str
    before: str
    after: str
    previous: str  # the seal of the entry before
    seal: str


class Head(msgspec.Struct, frozen=True):
    """The number and the seal of an entry: whoever has written it down can tell later whether the past was altered."""

    number: int
    seal: str

    def __str__(self) -> str:
        return f"{self.number}:{self.seal}"


class Verified(msgspec.Struct, frozen=True):
    """Whether the audit is whole, and what isn't."""

    whole: bool
    entries: int
    head: str  # NUMBER:SEAL of the last entry
    faults: tuple[str, ...]


def sealed(draft: Draft, last: Head) -> Entry:
    """`draft` as the entry after `last`."""
    fields: dict[str, object] = {**msgspec.structs.asdict(draft), "number": last.number + 1, "previous": last.seal}
    return msgspec.convert({**fields, "seal": _seal(fields)}, Entry)


def _seal(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


def faults(entries: Iterable[Entry], heads: Mapping[int, str], noted: Iterable[Head] = ()) -> Iterator[str]:
    """What of the audit was altered, left out or cut off: nothing where it is whole.

    `heads` are those that were written apart from the entries when they were made, `noted` those that somebody kept.
    """
    last = Head(0, BEGINNING)
    seals: dict[int, str] = {}
    for entry in entries:
        if entry.number != last.number + 1:
            yield _missing(last.number + 1, entry.number - 1)
        elif entry.previous != last.seal:
            yield f"entry {entry.number} doesn't follow the entry before it: one of the two was replaced"
        fields = msgspec.structs.asdict(entry)
        if fields.pop("seal") != _seal(fields):
            yield f"entry {entry.number} was altered"
        if heads.get(entry.number, entry.seal) != entry.seal:
            yield f"entry {entry.number} is another one than was written first"
        last = Head(entry.number, entry.seal)
        seals[entry.number] = entry.seal
    final = max(heads, default=0)
    if final > last.number:
        yield _missing(last.number + 1, final) + ": they were cut off at the end"
    if last.number > final + 1:  # one may be: whoever wrote it was killed before its head was written
        yield f"no head was written for {_these(final + 1, last.number)}: they were added, or the heads were cut off"
    absent = sorted(number for number in range(1, min(final, last.number) + 1) if number not in heads)
    if absent:
        yield f"heads are missing, the first of them that of entry {absent[0]}"
    for head in noted:
        if seals.get(head.number) != head.seal:
            yield f"entry {head.number} is not the one whose head is {head.seal}"


def _missing(first: int, last: int) -> str:
    if last < first:
        return f"entry {last + 1} comes where entry {first} should"
    return f"{_these(first, last)} {'is' if first == last else 'are'} missing"


def _these(first: int, last: int) -> str:
    return f"entry {first}" if first == last else f"entries {first} to {last}"
