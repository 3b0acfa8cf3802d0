"""Declare: a file becomes a Manifest, or all the problems that it has, each with its line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import msgspec.inspect as mi

from servery.control.places import Places
from servery.control.shape import VALUES, TooLarge, Walk
from servery.control.tree import Unreadable, read
from servery.terms.change import Problem
from servery.terms.manifest import Manifest


class Declared(msgspec.Struct, frozen=True):
    """What a file declares.

    `manifest` is there only when nothing is wrong, `digest` with it; `sound` is what remains of a broken file when each
    broken model, route and tenant is left out: later steps look at it to find more problems in one go.
    """

    manifest: Manifest | None
    digest: str
    places: Places
    problems: tuple[Problem, ...]
    sound: Manifest | None


def declare(path: Path) -> Declared:
    """Read the Manifest at `path`; whatever the file holds, the answer is a value."""
    file = str(path)
    try:
        node = read(path)
    except Unreadable as error:
        return Declared(None, "", Places(file), (error.problem,), None)
    walk = Walk(file)
    kind = mi.type_info(Manifest)
    assert isinstance(kind, mi.StructType)
    try:
        values, _ = walk.fields(node, kind, "")
    except TooLarge:
        limit = Problem(
            file, 1, 1, "file", f"holds more than {VALUES:,} values, counting what aliases repeat", "split it"
        )
        return Declared(None, "", Places(file, walk.marks), (limit,), None)
    places = Places(file, walk.marks)
    problems = tuple(walk.problems)
    try:
        sound = msgspec.convert({**values, "servery": 1}, Manifest)
    except msgspec.ValidationError as error:
        return Declared(None, "", places, (*problems, places.problem("", str(error))), None)
    if problems:
        return Declared(None, "", places, problems, sound)
    return Declared(sound, manifest_digest(sound), places, (), sound)


def manifest_digest(manifest: Manifest) -> str:
    """SHA-256, in hex, of what is declared: comments, the order of keys and spelled-out defaults don't change it."""
    return hashlib.sha256(msgspec.json.encode(_canonical(manifest), order="sorted")).hexdigest()


def _canonical(value: object) -> object:
    """`value` without what equals its default. (The encoder's own omit_defaults keeps a default that was written out.)"""
    if isinstance(value, dict):
        entries = cast(dict[str, object], value)
        return {key: _canonical(item) for key, item in entries.items()}
    if isinstance(value, tuple):
        return [_canonical(item) for item in cast(tuple[object, ...], value)]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = msgspec.structs.fields(value)
    written = ((field, getattr(value, field.name)) for field in fields)
    return {field.encode_name: _canonical(item) for field, item in written if item != _default(field)}


def _default(field: msgspec.structs.FieldInfo) -> object:
    factory = field.default_factory
    return field.default if factory is msgspec.NODEFAULT else cast(Callable[[], object], factory)()
