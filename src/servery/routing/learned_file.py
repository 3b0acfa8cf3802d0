"""What was learned as the bytes of a file: numpy's npz, which holds no code. Pure."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from servery.routing.learned import BITS, Bins, Indices, Learned, Linear, Trees

Read = TypeVar("Read")
Arrays = Mapping[str, Any]
Facts = tuple[float, int, float]  # of what was learned: the bias, the depth of the trees, and their base


class BadFile(Exception):
    """Bytes that nothing trained can be read from. The message begins after the file's name."""


def pack(about: msgspec.Struct, bins: Bins, learned: Mapping[str, Learned]) -> bytes:
    """The file's bytes. `about` has the `facts_of` of all that was `learned`, by name."""
    arrays: dict[str, Any] = {"edge_counts": bins.counts, "edges": bins.edges}
    for name, one in learned.items():
        for part in ("words", "grams", "bins"):
            arrays[f"{name}_{part}"] = getattr(one.linear, part)
        for part in ("feature", "threshold", "left", "right", "value"):
            arrays[f"{name}_{part}"] = getattr(one.trees, part)
    content = io.BytesIO()
    np.savez_compressed(content, about=np.frombuffer(msgspec.json.encode(about), np.uint8), **arrays)
    return content.getvalue()


def facts_of(learned: Learned) -> Facts:
    """What of it is no array."""
    return learned.linear.bias, learned.trees.depth, learned.trees.base


def unpack(content: bytes, noun: str, version: int, read: Callable[[bytes, Arrays], Read]) -> Read:
    """What `read` makes of the file's `about`, once it says that it is of this version, and of its arrays. BadFile."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about: bytes = arrays["about"].tobytes()
            written = msgspec.json.decode(about, type=_Versioned)
            if written.kind != noun:
                raise BadFile(f"is a {written.kind}, and no {noun}: write one with `servery {noun} train`")
            if written.version != version:
                raise BadFile(f"is a {noun} of version {written.version}; this Servery reads version {version}")
            return read(about, arrays)
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError, msgspec.DecodeError, AttributeError, TypeError):
        raise BadFile(f"is not a {noun}: write one with `servery {noun} train`") from None
    except _Damaged:
        raise BadFile(f"is damaged: write it again with `servery {noun} train`") from None


def bins_in(arrays: Arrays, counts: int) -> Bins:
    """The bins over so many counts."""
    bins = Bins(arrays["edge_counts"], arrays["edges"])
    sound = len(bins.edges.shape) == 1 and bins.counts.shape == bins.edges.shape and _within(bins.counts, counts)
    if not sound or not _finite(bins.edges):
        raise _Damaged
    return bins


def learned_in(arrays: Arrays, name: str, facts: Facts, bins: Bins, counts: int) -> Learned:
    """What was learned under this name. Every index in it points at something, so that no text can make a score fail."""
    bias, depth, base = facts
    words, grams, weights = (arrays[f"{name}_{part}"] for part in ("words", "grams", "bins"))
    feature, threshold, left, right, value = (
        arrays[f"{name}_{part}"] for part in ("feature", "threshold", "left", "right", "value")
    )
    learned = Learned(Linear(words, grams, weights, bias), Trees(feature, threshold, left, right, value, depth, base))
    if not all(_sound(learned, bins, counts)):
        raise _Damaged
    return learned


def _sound(learned: Learned, bins: Bins, counts: int) -> Iterator[bool]:
    linear, trees = learned.linear, learned.trees
    yield linear.words.shape == linear.grams.shape == (2**BITS,) and linear.bins.shape == bins.edges.shape
    shape = trees.feature.shape
    yield len(shape) == 2 and all(shape) and 0 <= trees.depth <= shape[1]
    yield all(part.shape == shape for part in (trees.threshold, trees.left, trees.right, trees.value))
    yield _within(trees.feature, counts) and _within(trees.left, shape[1]) and _within(trees.right, shape[1])
    yield all(
        _finite(part)
        for part in (linear.words, linear.grams, linear.bins, trees.threshold, trees.value, linear.bias, trees.base)
    )


def _within(indices: Indices, count: int) -> bool:
    return indices.dtype.kind == "i" and bool(((indices >= 0) & (indices < count)).all())


def _finite(numbers: Any) -> bool:
    found = np.asarray(numbers)
    return found.dtype.kind == "f" and bool(np.isfinite(found).all())


class _Damaged(Exception):
    """Arrays that don't fit together."""


class _Versioned(msgspec.Struct, frozen=True):
    """What every file says of itself."""

    version: int
    kind: str = "router"
