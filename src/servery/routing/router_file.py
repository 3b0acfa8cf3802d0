"""A trained router as the bytes of a file. Pure."""

from __future__ import annotations

import msgspec

from servery.routing.complexity import COUNTS, Scorer
from servery.routing.learned_file import Arrays, Facts, bins_in, facts_of, learned_in, pack, unpack

VERSION = 1


class About(msgspec.Struct, frozen=True):
    """What a router's file says of itself. Prompts whose gain is above `threshold` go to the strong model."""

    version: int
    rows: int
    threshold: float
    mix: tuple[float, float]
    scale: tuple[float, float]
    cheap: Facts
    strong: Facts


class Router(msgspec.Struct, frozen=True):
    """A Scorer, from how many prompts it learned, and above which gain a prompt goes to the strong model."""

    scorer: Scorer
    rows: int
    threshold: float


def encode_router(router: Router) -> bytes:
    """The file's bytes."""
    scorer = router.scorer
    cheap, strong = facts_of(scorer.cheap), facts_of(scorer.strong)
    about = About(VERSION, router.rows, router.threshold, scorer.mix, scorer.scale, cheap, strong)
    return pack(about, scorer.bins, {"cheap": scorer.cheap, "strong": scorer.strong})


def decode_router(content: bytes) -> Router:
    """BadFile when they aren't one."""
    return unpack(content, "router", VERSION, _read)


def _read(said: bytes, arrays: Arrays) -> Router:
    about, counts = msgspec.json.decode(said, type=About), len(COUNTS)
    bins = bins_in(arrays, counts)
    cheap = learned_in(arrays, "cheap", about.cheap, bins, counts)
    strong = learned_in(arrays, "strong", about.strong, bins, counts)
    return Router(Scorer(bins, cheap, strong, about.mix, about.scale), about.rows, about.threshold)
