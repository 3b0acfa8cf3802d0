"""What is remembered of changes, as values: the Intent of one, the Journal's line about it, Revisions, and what is held."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from servery.terms.change import Snapshot


class Held(msgspec.Struct, frozen=True):
    """A Version that was rolled back or stopped, and is served no more until somebody asks for it with a reason.

    `evidence` is JSON.
    """

    model: str
    digest: str
    since_ns: int
    who: str
    why: str
    evidence: str = "{}"


class Wish(msgspec.Struct, frozen=True):
    """What somebody wants served: what `file` declares (""; the manifest that is served, read again), or a Revision.

    With `mark` only if that leads to the Plan of this mark; with `retry`, a reason, also if a Version of it is held.
    """

    who: str
    why: str
    file: str = ""
    revision: int = 0
    retry: str = ""
    mark: str = ""
    id: str = ""  # of the change, where who asks has chosen one


class Intent(msgspec.Struct, frozen=True):
    """A change that is about to be made: what, by whom, why.

    `act` is up, apply, load, unload, wake, place or rollout; `subject` the Model, of those that are about one. `file` and `source`
    are where the manifest lies and what it says, where the change is about it; `returns_to` is the Revision, where it is an
    old one; `lifted` are those that are held no more once it is in effect.
    """

    id: str
    act: str
    who: str
    why: str
    subject: str = ""
    file: str = ""
    source: str = ""
    returns_to: int = 0
    steps: tuple[str, ...] = ()  # what changes, a line each
    lifted: tuple[Held, ...] = ()
    retry: str = ""  # why they are


class Ended(enum.Enum):
    """What became of a change."""

    UNDER_WAY = "under way"
    IN_EFFECT = "in effect"
    RETURNED = "returned"  # a worker couldn't take it over: what was served before goes on
    NOT_BEGUN = "not begun"  # the controller ended before it had published anything
    OVERTAKEN = "overtaken"  # Servery was started anew meanwhile


class Underway(msgspec.Struct, frozen=True):
    """A change as the Journal has it while it is under way: enough to finish it, or to go back.

    `room` is the epoch of a Snapshot in between, in which some Models sleep to make room; 0: there is none.
    """

    intent: Intent
    at_ns: int
    old: Snapshot
    new: Snapshot
    room: int = 0


class Journaled(msgspec.Struct, frozen=True):
    """What the Journal says of a change. `step` is how far it has come: begun, room, published, returning."""

    id: str
    act: str
    subject: str
    who: str
    why: str
    at_ns: int
    step: str
    ended: Ended
    message: str = ""  # why it isn't in effect
    epoch: int = 0  # that is served since
    revision: int = 0
    audit: str = ""  # the head of the audit with its entry


class Revision(msgspec.Struct, frozen=True):
    """What was published at one time: a Manifest and the Versions that it stood for, by number."""

    number: int
    at_ns: int
    act: str
    who: str
    why: str
    digest: str  # of the manifest
    epoch: int
    file: str  # where the manifest lay
    returns_to: int
    steps: tuple[str, ...]
    kept: bool  # whether it can still be returned to


def serves(snapshot: Snapshot) -> str:
    """A digest, in hex, of all that decides what a Snapshot answers and to whom: the manifest and the Versions it stands for."""
    models = {
        name: [[[version.number, version.digest] for version in served.versions], served.labels]
        for name, served in snapshot.models.items()
    }
    trained = [
        {name: pinned.digest for name, pinned in files.items()} for files in (snapshot.routers, snapshot.verifiers)
    ]
    content = msgspec.json.encode([snapshot.manifest_digest, models, trained], order="sorted")
    return hashlib.sha256(content).hexdigest()
