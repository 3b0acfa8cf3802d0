"""The Bulletin in a file, for processes that start."""

from __future__ import annotations

from pathlib import Path

import msgspec

from servery.terms.bulletin import Bulletin, Kept


def read_bulletin(path: Path, wall_ns: int) -> Bulletin:
    """The Bulletin that was written last, as old as it is; an empty one where there is none that can be read."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Bulletin()
    age_ns = max(wall_ns - kept.at_ns, 0)
    aged = [msgspec.structs.replace(fact, age_ns=fact.age_ns + age_ns) for fact in kept.bulletin.facts]
    return Bulletin(kept.bulletin.epoch, tuple(aged))
