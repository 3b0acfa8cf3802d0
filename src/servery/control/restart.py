"""What of a Manifest can't change while Servery runs: where it listens, how its processes are made, where Records go, and where it counts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from servery.control.places import Places, at
from servery.terms.change import Problem
from servery.terms.declared import Declared
from servery.terms.manifest import Manifest

# Of `server`; the rest of it is fixed at the start.
_LIVE = {
    "concurrency_per_worker",
    "queue_per_worker",
    "in_process_ms",
    "in_process_mb",
    "loaded_mb",
    "keep_revisions",
    "fetch_mb",
}


def needs_restart(old: Manifest, new: Manifest, places: Places) -> Iterator[Problem]:
    """A Problem for each difference that only a new start can put into effect."""
    yield from _differences("server", old.server, new.server, places)
    yield from _differences("records", old.records, new.records, places)
    yield from _differences("counters", old.counters, new.counters, places)
    if old.region != new.region:
        yield _problem("region", old.region, new.region, places)


def _differences(where: str, old: Declared, new: Declared, places: Places) -> Iterator[Problem]:
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or (where == "server" and field.name in _LIVE):
            continue
        if isinstance(before, Declared) and isinstance(after, Declared):
            yield from _differences(at(where, field.encode_name), before, after, places)
        else:
            yield _problem(at(where, field.encode_name), before, after, places)


def _problem(where: str, before: object, after: object, places: Places) -> Problem:
    message = f"it is {_written(before)} now and can't become {_written(after)} while Servery runs"
    return places.problem(where, message, "put it back, or stop Servery and start it again")


def _written(value: object) -> str:
    """As it stands in a manifest."""
    if isinstance(value, Declared):
        return msgspec.json.encode(value).decode()
    return "nothing" if value is None else str(value)
