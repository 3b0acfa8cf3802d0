"""Who is given which Version while a new one is rolled out. Pure, and the same in each worker and after each restart.

A unit's place between 0 and 1 is a hash of the Rollout and the unit: whoever has the candidate keeps it as its share grows.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from hmac import compare_digest

import msgspec

from servery.terms.change import Candidate
from servery.terms.reasons import Reason, Refusal
from servery.terms.record import Assigned
from servery.terms.rollouts import Arm, Unit

# The header, in requests and in replies, by which a caller carries its arm on.
ARM_HEADER = "servery-arm"

_SCALE = 2.0**-64
_DIGEST = 16
_MOST_TOKENS = 8
_TOKEN = re.compile(r"([\x21-\x2b\x2d\x2f-\x7e]{1,64})\.([0-9a-f]{32})\.([0-9a-f]{32})")


class Trial(msgspec.Struct, frozen=True):
    """A Rollout as requests meet it. `header` (in small letters) or `parameter` name the unit; neither: each request is one."""

    rollout: str
    share: float
    step: int = 0
    header: str = ""
    parameter: str = ""
    mirrors: bool = False  # the candidate only shadows

    @property
    def named(self) -> bool:
        """Whether requests belong to units that come again."""
        return bool(self.header or self.parameter)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Those that there are."""
        return _MIRRORING if self.mirrors else _ANSWERING


_ANSWERING = (Arm.INCUMBENT, Arm.CANDIDATE, Arm.EXCLUDED)
_MIRRORING = (Arm.INCUMBENT, Arm.MIRRORED, Arm.EXCLUDED, Arm.DROPPED, Arm.ASIDE)


def trial_of(candidate: Candidate) -> Trial:
    """The Trial in which a candidate takes part."""
    unit = candidate.unit or Unit()
    mirrors = candidate.model.rollout.kind == "shadow"
    return Trial(candidate.rollout, candidate.share, candidate.step, unit.header.lower(), unit.parameter, mirrors)


def digest_of(rollout: str, unit: bytes) -> bytes:
    """By what a Rollout knows a unit: its place, and the name that Records have."""
    return blake2b(unit, digest_size=_DIGEST, key=rollout.encode()).digest()


def place_of(digest: bytes) -> float:
    """A unit's place in a Rollout, from 0 to 1."""
    return int.from_bytes(digest[:8]) * _SCALE


def assign(trial: Trial, digest: bytes | None, room: bool = True) -> tuple[Arm, Assigned]:
    """The arm of a unit; None: nobody knows it. `room` is whether one more could be mirrored: it is looked at before the draw, so that
    those that are compared are alike whoever was drawn.
    """
    if digest is None:
        return Arm.EXCLUDED, Assigned(trial.rollout, Arm.EXCLUDED.word, 1.0, "")
    drawn = place_of(digest) < trial.share or trial.share >= 1  # the last places are rounded up to 1
    if trial.mirrors:
        arm = (Arm.MIRRORED if room else Arm.DROPPED) if drawn else Arm.INCUMBENT if room else Arm.ASIDE
    else:
        arm = Arm.CANDIDATE if drawn else Arm.INCUMBENT
    propensity = trial.share if drawn else 1 - trial.share
    return arm, Assigned(trial.rollout, arm.word, propensity, digest[8:].hex(), trial.named)


def token_of(secret: bytes, rollout: str, digest: bytes) -> str:
    """What carries a unit's place in a Rollout to where the unit itself isn't known, without a word about who it is."""
    return f"{rollout}.{digest.hex()}.{_mac(secret, rollout, digest).hex()}"


def carried(secret: bytes, tokens: str) -> dict[str, bytes]:
    """The digests that tokens (with commas between them) carry, by Rollout. Refusal for one that wasn't made with this secret."""
    found: dict[str, bytes] = {}
    for token in tokens.split(",")[:_MOST_TOKENS]:
        parts = _TOKEN.fullmatch(token.strip())
        if parts is None or not compare_digest(
            bytes.fromhex(parts[3]), _mac(secret, parts[1], digest := bytes.fromhex(parts[2]))
        ):
            raise Refusal(Reason.INVALID_REQUEST, f"`{ARM_HEADER}` is none that a reply has given; leave it out")
        found[parts[1]] = digest
    return found


def _mac(secret: bytes, rollout: str, digest: bytes) -> bytes:
    return blake2b(
        rollout.encode() + b"/" + digest, digest_size=_DIGEST, key=secret[:64], person=b"servery-arm"
    ).digest()
