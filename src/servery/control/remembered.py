"""What the audit remembers of a change: pure."""

from __future__ import annotations

import msgspec

from servery.terms.audit import Draft
from servery.terms.change import Served, Snapshot
from servery.terms.history import Ended, Underway

_STEPS = 500  # of a change, that an entry holds


def draft_of(under_way: Underway, ended: Ended, message: str, now: Snapshot, now_ns: int) -> Draft:
    """The entry for a change that has ended, of which `now` is served."""
    intent, old = under_way.intent, under_way.old
    evidence: dict[str, object] = {"change": intent.id, "steps": intent.steps[:_STEPS]}
    if intent.lifted:
        evidence |= {"retry": intent.retry, "lifted": intent.lifted}
    outcome = f"{ended.value}: {message}" if message else ended.value
    before, after = _text(_facts(old, now)), _text(_facts(now, old))
    return Draft(now_ns, intent.who, intent.why, intent.act, intent.subject, outcome, _text(evidence), before, after)


def _facts(one: Snapshot, other: Snapshot) -> dict[str, object]:
    """What a Snapshot served, as far as it isn't what the other one did."""
    models = {name: _served(served) for name, served in one.models.items() if other.models.get(name) != served}
    return {"epoch": one.epoch, "manifest": one.manifest_digest, "models": models}


def _served(served: Served) -> dict[str, object]:
    versions = {version.number: version.digest for version in served.versions}
    return {"versions": versions, "labels": served.labels, "standing": served.standing.value, "apart": served.apart}


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
