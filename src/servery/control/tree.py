"""A file as a tree of values that know their place. This is the border to the YAML library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from servery.terms.change import Problem

MAX_BYTES: Final = 1 << 20
_MAX_DEPTH = 64
_TAG = "tag:yaml.org,2002:"
_ONLY_YAML_1_1 = ("timestamp", "value", "merge")  # plain text in YAML 1.2


class Node(msgspec.Struct, frozen=True):
    """A part of a file. `tag` is `int`, `str`, `map` …, or the whole tag when it isn't one of YAML's own."""

    tag: str
    line: int
    column: int


class Scalar(Node, frozen=True):
    text: str
    in_quotes: bool


class Items(Node, frozen=True):
    items: tuple[Node, ...]


class Entries(Node, frozen=True):
    entries: tuple[tuple[Node, Node], ...]


class Unreadable(Exception):
    """A file without a tree, and the Problem that says why."""

    def __init__(self, file: str, message: str, fix: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.problem = Problem(file, line, column, "file", message, fix)


def read(path: Path) -> Node:
    """The tree of the YAML file at `path`, or Unreadable. What an alias repeats is the same Node."""
    file = str(path)
    return _Copy(file).of(_compose(_text(path, file), file))


def _text(path: Path, file: str) -> str:
    try:
        if path.is_dir():
            raise Unreadable(file, "is a folder", "name the manifest inside it, for instance servery.yaml")
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Unreadable(file, "does not exist", "check the path; `servery init DIR` writes an example") from None
    except OSError as error:
        raise Unreadable(file, f"can't be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise Unreadable(file, f"is larger than {MAX_BYTES:,} bytes", "split it, or name the right file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise Unreadable(file, "is not UTF-8 text", "save it as UTF-8", line, column) from None


def _compose(text: str, file: str) -> Any:
    """The YAML library's own tree, or Unreadable."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.max_depth = _MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        marked: Any = error
        mark = marked.problem_mark or marked.context_mark
        message = " ".join(part for part in (marked.context, marked.problem) if part).replace("\n", " ")
        fix = "indent with spaces" if r"'\t'" in message else "correct the YAML here, or just before"
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise Unreadable(file, f"is not YAML: {message}", fix, *place) from None
    except ReaderError as error:
        wrong: Any = error
        before = text[: wrong.position]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"is not YAML: the character {chr(wrong.character)!r} may not be written as it is"
        raise Unreadable(file, message, "remove it, or write it as an escape in double quotes", *place) from None
    except (YAMLError, ValueError, RecursionError, OverflowError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Unreadable(file, f"is not YAML: {reason!r}") from None
    if root is None:
        raise Unreadable(file, "is empty", "begin with `servery: 1`; `servery init DIR` writes an example", 1, 1)
    return root


class _Copy:
    """One copying of a tree of the YAML library into ours; a node that aliases repeat is copied once."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def of(self, node: Any) -> Node:
        if (done := self._done.get(id(node))) is not None:
            return done
        tag = str(node.tag).removeprefix(_TAG)
        tag = "str" if tag in _ONLY_YAML_1_1 else tag
        line, column = int(node.start_mark.line) + 1, int(node.start_mark.column) + 1
        if id(node) in self._open:
            raise Unreadable(self._file, "an alias repeats a part that it is in itself", "write it out", line, column)
        self._open.add(id(node))
        if node.id == "scalar":
            copy: Node = Scalar(tag, line, column, str(node.value), bool(node.style))
        elif node.id == "mapping":
            copy = Entries(tag, line, column, tuple((self.of(key), self.of(value)) for key, value in node.value))
        else:
            copy = Items(tag, line, column, tuple(self.of(item) for item in node.value))
        self._open.discard(id(node))
        self._done[id(node)] = copy
        return copy
