"""A trained verifier as the bytes of a file. Pure."""

from __future__ import annotations

import msgspec

from servery.routing.answers import COUNTS
from servery.routing.learned_file import Arrays, Facts, bins_in, facts_of, learned_in, pack, unpack
from servery.routing.verifier import Verifier

VERSION = 1
_NOUN = "verifier"


class About(msgspec.Struct, frozen=True):
    """What a verifier's file says of itself. Answers whose chance is `confidence` or more were to stand."""

    version: int
    rows: int
    confidence: float
    mix: tuple[float, float]
    scale: tuple[float, float]
    right: Facts
    kind: str = _NOUN


class Trained(msgspec.Struct, frozen=True):
    """A Verifier, from how many answers it learned, and the confidence that was chosen for it."""

    verifier: Verifier
    rows: int
    confidence: float


def encode_verifier(trained: Trained) -> bytes:
    """The file's bytes."""
    verifier = trained.verifier
    right = facts_of(verifier.right)
    about = About(VERSION, trained.rows, trained.confidence, verifier.mix, verifier.scale, right)
    return pack(about, verifier.bins, {"right": verifier.right})


def decode_verifier(content: bytes) -> Trained:
    """BadFile when they aren't one."""
    return unpack(content, _NOUN, VERSION, _read)


def _read(said: bytes, arrays: Arrays) -> Trained:
    about, counts = msgspec.json.decode(said, type=About), len(COUNTS)
    bins = bins_in(arrays, counts)
    right = learned_in(arrays, "right", about.right, bins, counts)
    return Trained(Verifier(bins, right, about.mix, about.scale), about.rows, about.confidence)
