"""What of one part of a Manifest is another in a second one: pure, and complete whatever the types will hold later."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import cast

import msgspec

from servery.control.places import at
from servery.terms.declared import Declared
from servery.terms.plan import Difference

_LONGEST = 120  # characters of a value that are shown


def differences(where: str, before: Declared | None, after: Declared | None) -> Iterator[Difference]:
    """Each value that differs, by its dotted path; of a part that is in one of the two only, every value that isn't a
    default.
    """
    one = before if before is not None else after
    assert one is not None, "a part is in one of the two at least"
    for field in msgspec.structs.fields(type(one)):
        old = None if before is None else getattr(before, field.name)
        new = None if after is None else getattr(after, field.name)
        if before is None and new == _default(field):
            continue
        if after is None and old == _default(field):
            continue
        yield from _values(at(where, field.encode_name), old, new)


def _default(field: msgspec.structs.FieldInfo) -> object:
    factory = field.default_factory
    return factory() if factory is not msgspec.NODEFAULT and callable(factory) else field.default


def _values(where: str, old: object, new: object) -> Iterator[Difference]:
    if old == new and type(old) is type(new):
        return
    if _is_part(old) and _is_part(new):
        found = list(differences(where, cast(Declared | None, old), cast(Declared | None, new)))
        yield from found or [Difference(where, shown(old), shown(new))]  # a part without a word in it
    elif isinstance(old, dict) or isinstance(new, dict):
        yield from _entries(where, _of_dict(cast(object, old)), _of_dict(cast(object, new)))
    elif (items := _named(old)) is not None and (others := _named(new)) is not None and (items or others):
        yield from _entries(where, items, others)
        kept, there = [name for name in items if name in others], [name for name in others if name in items]
        if kept != there:
            yield Difference(where, ", ".join(kept), ", ".join(there))
    else:
        yield Difference(where, shown(old), shown(new))


def _is_part(value: object) -> bool:
    return value is None or isinstance(value, Declared)


def _entries(where: str, old: dict[str, object], new: dict[str, object]) -> Iterator[Difference]:
    for name in dict.fromkeys((*old, *new)):
        yield from _values(at(where, name), old.get(name), new.get(name))


def _of_dict(value: object) -> dict[str, object]:
    return cast(dict[str, object], value) if isinstance(value, dict) else {}


def _named(value: object) -> dict[str, object] | None:
    """The parts of a list by what tells them apart (name, id, number); None for what is no list of such parts."""
    if value is None:
        return {}
    if not isinstance(value, tuple):
        return None
    items = cast(tuple[object, ...], value)
    names = [_name(item) for item in items]
    if None in names or len(set(names)) < len(names):
        return None
    return dict(zip(cast(list[str], names), items, strict=True))


def _name(item: object) -> str | None:
    for key in ("name", "id", "number"):
        if isinstance(item, Declared) and (found := getattr(item, key, None)) is not None:
            return str(found)
    return None


def shown(value: object) -> str:
    """A value as it would be written in one line; "" where there is none."""
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case float():
            text = f"{value:.10g}"
        case str():
            text = value
        case enum.Enum():
            text = str(value.value)
        case Declared():
            parts = (f"{one.where}: {one.after}" for one in differences("", None, value))
            text = "{" + ", ".join(parts) + "}"
        case tuple():
            text = "[" + ", ".join(map(shown, cast(Iterable[object], value))) + "]"
        case _:
            text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
