"""How a problem speaks of what is written and of what should have been."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi

from servery.control.tree import Entries, Items, Node, Scalar

_LONGEST = 60


def plain(kind: mi.Type) -> tuple[mi.Type, str]:
    """The type without what surrounds it (a description, `| None`), and the description."""
    description = ""
    while True:
        if isinstance(kind, mi.Metadata):
            description = description or _description(kind)
            kind = kind.type
        elif (
            isinstance(kind, mi.UnionType)
            and len(some := [t for t in kind.types if not isinstance(t, mi.NoneType)]) == 1
        ):
            kind = some[0]
        else:
            return kind, description


def _description(kind: Any) -> str:
    return str(kind.extra_json_schema.get("description", "")) if kind.extra_json_schema else ""


def optional(kind: mi.Type) -> bool:
    """Whether null may be written."""
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    return isinstance(kind, mi.UnionType) and any(isinstance(t, mi.NoneType) for t in kind.types)


def quoted(text: str) -> str:
    """`text` in quotes, cut short, and safe to print: no control characters, no half characters."""
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def found(node: Node) -> str:
    """What was written, in words."""
    if isinstance(node, Entries):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    assert isinstance(node, Scalar)
    match node.tag:
        case "null":
            return "nothing"
        case "int" | "float":
            return f"the number {quoted(node.text)[1:-1]}"
        case "bool":
            return quoted(node.text)[1:-1]
        case "str":
            return f"the text {quoted(node.text)}"
        case other:
            return f"a value tagged {quoted(other)[1:-1]}"


def expected(kind: mi.Type) -> str:
    """What may be written for a value of this type, in words."""
    kind, _ = plain(kind)
    match kind:
        case mi.LiteralType():
            choices = [f"`{value}`" for value in kind.values]
            return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
        case mi.IntType():
            return "a whole number" + _bounds(kind)
        case mi.FloatType():
            return "a number" + _bounds(kind)
        case mi.BoolType():
            return "true or false"
        case mi.StrType():
            return "text" + _length(kind) + _characters(kind)
        case mi.TupleType():
            return f"a list of {len(kind.item_types)}: [" + ", ".join(expected(item) for item in kind.item_types) + "]"
        case mi.VarTupleType():
            return f"a list{_length(kind)} (lines that begin with `- `, or [a, b])"
        case mi.DictType():
            return "a mapping from names to values"
        case mi.AnyType():
            return "a number, a text, true or false, or a list of them"
        case mi.StructType():
            return "a mapping with the keys " + ", ".join(f"`{field.encode_name}`" for field in kind.fields)
        case _:
            raise TypeError(f"a Manifest with a {type(kind).__name__} can't be read yet")


def _bounds(kind: mi.IntType | mi.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    parts = [
        f"above {kind.gt}" if kind.gt is not None else "",
        f"of {kind.ge} or more" if kind.ge is not None else "",
        f"below {kind.lt}" if kind.lt is not None else "",
        f"up to {kind.le}" if kind.le is not None else "",
    ]
    return "".join(" " + part for part in parts if part).replace(" up to", " and up to" if parts[0] else " up to")


def _characters(kind: mi.StrType) -> str:
    printable = kind.pattern is not None and kind.pattern.startswith("^[^")  # all but control characters
    return "" if kind.max_length is None else " printable characters" if printable else " characters"


def _length(kind: mi.VarTupleType | mi.StrType) -> str:
    low, high = kind.min_length, kind.max_length
    if low is not None and high is not None:
        return f" of {low} to {high}"
    if low is not None:
        return " that is not empty" if low == 1 else f" of {low} or more"
    return f" of at most {high}" if high is not None else ""
