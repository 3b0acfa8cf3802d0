"""Who is given which Version while a new one is rolled out. Pure, and the same in each worker and after each restart.

A unit's place between 0 and 1 is a hash of the Rollout and the unit: whoever has the candidate keeps it as its share grows.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from servery.terms.change import Candidate
from servery.terms.record import Assigned
from servery.terms.rollouts import Arm, Unit

_SCALE = 2.0**-64


class Trial(msgspec.Struct, frozen=True):
    """A Rollout as requests meet it. `header` (in small letters) or `parameter` name the unit; neither: each request is one."""

    rollout: str
    share: float
    step: int = 0
    header: str = ""
    parameter: str = ""


def trial_of(candidate: Candidate) -> Trial:
    """The Trial in which a candidate takes part."""
    unit = candidate.unit or Unit()
    return Trial(candidate.rollout, candidate.share, candidate.step, unit.header.lower(), unit.parameter)


def place_of(rollout: str, unit: bytes) -> tuple[float, str]:
    """A unit's place in a Rollout, from 0 to 1, and the digest by which Records know it."""
    digest = blake2b(unit, digest_size=16, key=rollout.encode()).digest()
    return int.from_bytes(digest[:8]) * _SCALE, digest[8:].hex()


def assign(trial: Trial, unit: bytes | None) -> tuple[Arm, Assigned]:
    """The arm of a unit; None: nobody knows it."""
    if unit is None:
        return Arm.EXCLUDED, Assigned(trial.rollout, Arm.EXCLUDED.word, 1.0, "")
    place, name = place_of(trial.rollout, unit)
    keeps = bool(trial.header or trial.parameter)
    if place < trial.share:
        return Arm.CANDIDATE, Assigned(trial.rollout, Arm.CANDIDATE.word, trial.share, name, keeps)
    return Arm.INCUMBENT, Assigned(trial.rollout, Arm.INCUMBENT.word, 1 - trial.share, name, keeps)
