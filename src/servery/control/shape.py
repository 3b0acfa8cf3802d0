"""One walk over a YAML tree along a type: every misfit becomes a Problem, and what fits becomes a value."""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec.inspect as mi

from servery.control.places import at, did_you_mean
from servery.control.tree import Entries, Items, Node, Scalar
from servery.control.words import expected, found, optional, plain, quoted
from servery.terms.change import Problem

# An alias repeats a whole tree for the price of a word: what is walked is bounded, not only what is written.
VALUES: Final = 100_000
_LARGEST = 2**53  # the largest whole number that every JSON reader keeps exact


class TooLarge(Exception):
    """More values than a Manifest may hold, counting what aliases repeat."""


class Broken:
    """In the place of a value that could not be read."""


BROKEN: Final = Broken()
Value = str | int | float | bool | list["Value"] | dict[str, "Value"] | None


class Walk:
    """The walk over one file. `problems` and `marks` (line and column by dotted path) grow as it goes."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.marks: dict[str, tuple[int, int]] = {}
        self._file = file
        self._left = VALUES

    def fields(self, node: Node, kind: mi.StructType, where: str) -> tuple[dict[str, Value], bool]:
        """The sound fields of a mapping, and whether it is sound as a whole; TooLarge."""
        if not isinstance(node, Entries) or node.tag != "map":
            self._misfit(node, kind, where)
            return {}, False
        known = {field.encode_name: field for field in kind.fields}
        before = len(self.problems)
        values: dict[str, Value] = {}
        missing = {field.encode_name: field for field in kind.fields if field.required}
        for key, key_node, value_node in self._entries(node, where):
            missing.pop(key, None)
            if (field := known.get(key)) is None:
                guess = did_you_mean(key, known)
                missing.pop(guess, None)
                fix = (
                    f"did you mean `{guess}`?"
                    if guess
                    else "the keys here are " + ", ".join(f"`{name}`" for name in known)
                )
                self._problem(key_node, at(where, key), f"unknown key {quoted(key)}", fix)
                continue
            value = self.read(value_node, field.type, at(where, key))
            if not isinstance(value, Broken):
                values[key] = value
        for key, field in missing.items():
            message = f"{quoted(key)} is missing"
            self._problem(node, where, message, f"add `{key}:` with {self._wanted(field.type)}", self.marks.get(where))
        return values, len(self.problems) == before

    def read(self, node: Node, kind: mi.Type, where: str) -> Value | Broken:
        """The value of `node` as `kind`, or BROKEN with at least one more problem; TooLarge."""
        self._left -= 1
        if self._left < 0:
            raise TooLarge
        inner, _ = plain(kind)
        if isinstance(node, Scalar) and node.tag == "null" and optional(kind):
            return None
        match inner:
            case mi.StructType():
                values, whole = self.fields(node, inner, where)
                return values if whole else BROKEN
            case mi.DictType():
                return self._dict(node, inner, where)
            case mi.TupleType() | mi.VarTupleType():
                return self._list(node, kind, inner, where)
            case mi.AnyType():
                return self._nested(node, kind, where)
            case _:
                return self._scalar(node, kind, inner, where)

    def _nested(self, node: Node, kind: mi.Type, where: str) -> Value | Broken:
        """Numbers, texts, true and false, in lists of any depth: the values of a tensor."""
        if isinstance(node, Items) and node.tag == "seq":
            read = [self.read(item, kind, at(where, index)) for index, item in enumerate(node.items)]
            items = [value for value in read if not isinstance(value, Broken)]
            return items if len(items) == len(read) else BROKEN
        if isinstance(node, Scalar) and node.tag in ("int", "float"):
            value = _number(node)
            return self._misfit(node, kind, where) if value is None else value
        if isinstance(node, Scalar) and node.tag in ("bool", "str"):
            return node.text if node.tag == "str" else node.text.lower() == "true"
        return self._misfit(node, kind, where)

    def _dict(self, node: Node, kind: mi.DictType, where: str) -> Value | Broken:
        """A mapping of names; a broken entry is left out, so that the others can still be looked at."""
        if not isinstance(node, Entries) or node.tag != "map":
            return self._misfit(node, kind, where)
        values: dict[str, Value] = {}
        for key, key_node, value_node in self._entries(node, where):
            name = self._scalar(key_node, kind.key_type, plain(kind.key_type)[0], at(where, key))
            value = self.read(value_node, kind.value_type, at(where, key))
            if not isinstance(name, Broken) and not isinstance(value, Broken):
                values[key] = value
        return values

    def _list(self, node: Node, kind: mi.Type, inner: mi.TupleType | mi.VarTupleType, where: str) -> Value | Broken:
        if not isinstance(node, Items) or node.tag != "seq":
            return self._misfit(node, kind, where)
        count = len(node.items)
        if isinstance(inner, mi.TupleType):
            low = high = len(inner.item_types)
            types = (inner.item_types * (count // low + 1))[:count]
        else:
            low, high = inner.min_length or 0, inner.max_length
            types = (inner.item_type,) * count
        fits = low <= count and (high is None or count <= high)
        if not fits:
            self._problem(node, where, f"has {count} values", f"write {self._wanted(kind)}", self.marks.get(where))
        items: list[Value] = []
        for index, (item, item_type) in enumerate(zip(node.items, types, strict=True)):
            self._mark(at(where, index), item, item)
            value = self.read(item, item_type, at(where, index))
            if not isinstance(value, Broken):
                items.append(value)
        return items if fits and len(items) == count else BROKEN

    def _entries(self, node: Entries, where: str) -> list[tuple[str, Scalar, Node]]:
        """The entries of a mapping whose keys are text, each key once."""
        lines: dict[str, int] = {}
        entries: list[tuple[str, Scalar, Node]] = []
        for key_node, value_node in node.entries:
            if not isinstance(key_node, Scalar) or key_node.tag != "str":
                fix = f'write it in quotes: "{key_node.text}"' if isinstance(key_node, Scalar) and key_node.text else ""
                self._problem(
                    key_node, where, f"a key must be text, not {found(key_node)}", fix or "write text before the colon"
                )
            elif key_node.text == "<<" and not key_node.in_quotes:
                self._problem(
                    key_node,
                    where,
                    "merge keys (`<<`) are not a part of YAML 1.2",
                    "write the keys out; `*alias` works for whole values",
                )
            elif key_node.text in lines:
                message = f"{quoted(key_node.text)} is written twice (first on line {lines[key_node.text]})"
                self._problem(key_node, at(where, key_node.text), message, "keep one of the two")
            else:
                lines[key_node.text] = key_node.line
                self._mark(at(where, key_node.text), key_node, value_node)
                entries.append((key_node.text, key_node, value_node))
        return entries

    def _scalar(self, node: Node, kind: mi.Type, inner: mi.Type, where: str) -> Value | Broken:
        if not isinstance(node, Scalar):
            return self._misfit(node, kind, where)
        match inner:
            case mi.LiteralType():
                value = _number(node) if node.tag == "int" else node.text
                return (
                    value
                    if value in inner.values and node.tag in ("int", "str")
                    else self._wrong_choice(node, kind, inner, where)
                )
            case mi.BoolType() if node.tag == "bool":
                return node.text.lower() == "true"
            case mi.IntType() | mi.FloatType():
                value = _number(node) if node.tag in ("int", "float") else None
                fits = value is not None and _within(value, inner)
                return value if fits else self._misfit(node, kind, where)
            case mi.StrType() if node.tag == "str":
                return node.text if _text_fits(node.text, inner) else self._misfit(node, kind, where)
            case _:
                return self._misfit(node, kind, where)

    def _wrong_choice(self, node: Scalar, kind: mi.Type, inner: mi.LiteralType, where: str) -> Broken:
        guess = did_you_mean(node.text, [str(choice) for choice in inner.values])
        fix = f"write {self._wanted(kind)}" + (f"; did you mean `{guess}`?" if guess and len(inner.values) > 1 else "")
        self._problem(node, where, f"can't be {found(node)}", fix, self.marks.get(where))
        return BROKEN

    def _misfit(self, node: Node, kind: mi.Type, where: str) -> Broken:
        inner, _ = plain(kind)
        fix = f"write {self._wanted(kind)}"
        if isinstance(node, Scalar):
            if isinstance(inner, mi.StrType) and node.tag in ("int", "float", "bool"):
                fix = f'write it in quotes: "{node.text}"'
            elif (
                isinstance(inner, mi.IntType | mi.FloatType | mi.BoolType)
                and node.in_quotes
                and _fits_unquoted(node.text, inner)
            ):
                fix = f"write {node.text} without quotes"
        self._problem(node, where, f"can't be {found(node)}", fix, self.marks.get(where))
        return BROKEN

    def _wanted(self, kind: mi.Type) -> str:
        _, description = plain(kind)
        return expected(kind) + (f" ({description})" if description else "")

    def _mark(self, where: str, key: Node, value: Node) -> None:
        """Scalars are found where their value is written, everything else where its key is."""
        written = value if isinstance(value, Scalar) and (value.text or value.in_quotes) else key
        self.marks[where] = (written.line, written.column)

    def _problem(self, node: Node, where: str, message: str, fix: str, place: tuple[int, int] | None = None) -> None:
        line, column = place or (node.line, node.column)
        self.problems.append(Problem(self._file, line, column, where, message, fix))


def _number(node: Scalar) -> int | float | None:
    """The number that a scalar tagged as one writes; None when it is none after all, or too large."""
    text = node.text.replace("_", "").lower()
    try:
        if node.tag == "float":
            return float(text)
        prefix = text.lstrip("+-")[:2]
        value = int(text, {"0x": 16, "0o": 8, "0b": 2}.get(prefix, 10))
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None


def _within(value: int | float, kind: mi.IntType | mi.FloatType) -> bool:
    return (
        (isinstance(value, int) or (isinstance(kind, mi.FloatType) and math.isfinite(value)))
        and (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def _fits_unquoted(text: str, kind: mi.Type) -> bool:
    if isinstance(kind, mi.BoolType):
        return text in ("true", "false")
    pattern = r"[-+]?[0-9]+" if isinstance(kind, mi.IntType) else r"[-+]?[0-9]+(\.[0-9]*)?"
    return re.fullmatch(pattern, text) is not None


def _text_fits(text: str, kind: mi.StrType) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of escapes ("\ud800")
        return False
    return (
        (kind.min_length is None or len(text) >= kind.min_length)
        and (kind.max_length is None or len(text) <= kind.max_length)
        and (kind.pattern is None or re.search(kind.pattern, text) is not None)
    )
