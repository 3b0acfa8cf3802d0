"""A trained router as the bytes of a file: numpy's npz, which holds no code. Pure."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import msgspec
import numpy as np

from servery.routing.complexity import BITS, COUNTS, Learned, Linear, Scorer, Trees

VERSION = 1


class About(msgspec.Struct, frozen=True):
    """What a router's file says of itself. Prompts whose gain is above `threshold` go to the strong model."""

    version: int
    rows: int
    threshold: float
    mix: tuple[float, float]
    scale: tuple[float, float]
    cheap: tuple[float, int, float]  # a model's bias, depth of trees, and base
    strong: tuple[float, int, float]


class Router(msgspec.Struct, frozen=True):
    """A Scorer, from how many prompts it learned, and above which gain a prompt goes to the strong model."""

    scorer: Scorer
    rows: int
    threshold: float


class BadRouter(Exception):
    """Bytes that are no router, or can't be one. The message begins after the file's name."""


def encode_router(router: Router) -> bytes:
    """The file's bytes."""
    scorer = router.scorer
    facts = [(one.linear.bias, one.trees.depth, one.trees.base) for one in (scorer.cheap, scorer.strong)]
    about = About(VERSION, router.rows, router.threshold, scorer.mix, scorer.scale, *facts)
    arrays: dict[str, Any] = {"edge_counts": scorer.edge_counts, "edges": scorer.edges}
    for name, learned in (("cheap", scorer.cheap), ("strong", scorer.strong)):
        for part in ("words", "grams", "bins"):
            arrays[f"{name}_{part}"] = getattr(learned.linear, part)
        for part in ("feature", "threshold", "left", "right", "value"):
            arrays[f"{name}_{part}"] = getattr(learned.trees, part)
    content = io.BytesIO()
    np.savez_compressed(content, about=np.frombuffer(msgspec.json.encode(about), np.uint8), **arrays)
    return content.getvalue()


def decode_router(content: bytes) -> Router:
    """BadRouter when they aren't one."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = msgspec.json.decode(arrays["about"].tobytes(), type=About)
            if about.version != VERSION:
                raise BadRouter(f"is a router of version {about.version}; this Servery reads version {VERSION}")
            cheap, strong = _learned(arrays, "cheap", about.cheap), _learned(arrays, "strong", about.strong)
            scorer = Scorer(arrays["edge_counts"], arrays["edges"], cheap, strong, about.mix, about.scale)
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, msgspec.DecodeError, AttributeError, TypeError):
        raise BadRouter("is not a router: write one with `servery router train`") from None
    if not _is_sound(scorer):
        raise BadRouter("is damaged: write it again with `servery router train`")
    return Router(scorer, about.rows, about.threshold)


def _learned(arrays: Any, name: str, facts: tuple[float, int, float]) -> Learned:
    bias, depth, base = facts
    words, grams, bins = (arrays[f"{name}_{part}"] for part in ("words", "grams", "bins"))
    feature, threshold, left, right, value = (
        arrays[f"{name}_{part}"] for part in ("feature", "threshold", "left", "right", "value")
    )
    return Learned(Linear(words, grams, bins, bias), Trees(feature, threshold, left, right, value, depth, base))


def _is_sound(scorer: Scorer) -> bool:
    """Whether every index points at something, so that no prompt can make a score fail."""
    edges = scorer.edges.shape
    if scorer.edge_counts.shape != edges or len(edges) != 1 or not _within(scorer.edge_counts, len(COUNTS)):
        return False
    for learned in (scorer.cheap, scorer.strong):
        linear, trees = learned.linear, learned.trees
        shape = trees.feature.shape
        nodes = (trees.threshold, trees.left, trees.right, trees.value)
        if linear.words.shape != (2**BITS,) or linear.grams.shape != (2**BITS,) or linear.bins.shape != edges:
            return False
        if len(shape) != 2 or not all(shape) or any(part.shape != shape for part in nodes):
            return False
        if not _within(trees.feature, len(COUNTS)) or not 0 <= trees.depth <= shape[1]:
            return False
        if not (_within(trees.left, shape[1]) and _within(trees.right, shape[1])):
            return False
        numbers = (linear.words, linear.grams, linear.bins, trees.threshold, trees.value)
        if not all(np.isfinite(part).all() for part in numbers):
            return False
    return True


def _within(indices: np.ndarray, count: int) -> bool:
    return indices.dtype.kind == "i" and bool(((indices >= 0) & (indices < count)).all())
