"""What a Python artifact says of itself, read without running it: its files, and the class that answers."""

from __future__ import annotations

import ast
import json
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec

from servery.runtimes.artifact import Artifact, ArtifactError, digest_of
from servery.terms.tensors import Signature

PLATFORM = "python"
MODULE = "model"  # of a folder, where the class doesn't name one
_MAX_FILES = 10_000


class Entry(msgspec.Struct, frozen=True):
    """Where the class that answers is: its module (a dotted path from the folder), that module's file, its name."""

    module: str
    file: Path
    name: str


def read_code(path: Path, called: str, signature: Signature, extra: bytes) -> Artifact:
    """Read the code at `path`, a file or a folder, and look for the class `called` in it ("": none is named)."""
    files = _files(path)
    before = _marks(files)
    digest = _digest(path, files, extra)
    if called:
        entry = find_entry(path, called)
        _check_class(entry, _parse(entry.file))
    elif path.is_file():
        _parse(path)
    if _files(path) != files or _marks(files) != before:
        raise ArtifactError(f"{path} changed while it was read", "try again when it is at rest")
    return Artifact(signature, files, digest)


def code_digest(path: Path, extra: bytes) -> str:
    """The digest of what is at `path` now, as of `read_code`. ArtifactError."""
    return _digest(path, _files(path), extra)


def find_entry(path: Path, called: str) -> Entry:
    """Where the class `called` has to be; its file exists. ArtifactError."""
    module, _, name = called.rpartition(".")
    if path.is_file():
        if module:
            message = f"{path.name} is one file, so `class: {called}` names no other"
            raise ArtifactError(message, f"write `class: {name}`, or name the folder in `artifact`", "class")
        return Entry(path.stem, path, name)
    module = module or MODULE
    base = path.joinpath(*module.split("."))
    for file in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if file.is_file():
            return Entry(module, file, name)
    fix = "write the class there, or name its module, for instance `class: churn.Model` of churn.py"
    raise ArtifactError(f"the folder {path.name} has no {base.relative_to(path)}.py", fix, "class")


def _files(path: Path) -> tuple[Path, ...]:
    """All files that the code may be made of, in an order that is always the same."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            if path.suffix != ".py":
                raise ArtifactError(f"{path} is not Python", "name a file that ends in .py, or a folder")
            return (_regular(path),)
        found = sorted(_walk(path), key=lambda file: file.relative_to(path).parts)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # too long, closed to us, a zero byte
        raise ArtifactError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not any(file.suffix == ".py" for file in found):
        raise ArtifactError(f"{path} holds no Python file", "name the folder that has the class, or its file")
    return tuple(found)


def _walk(folder: Path) -> Iterator[Path]:
    count = 0
    for here, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in folders:
            if (Path(here) / name).is_symlink():
                message = f"{Path(here) / name} is a link to a folder, whose files nobody would vouch for"
                raise ArtifactError(message, "copy the folder in its place")
        for name in files:
            if name.startswith(".") or name.endswith(".pyc"):
                continue
            count += 1
            if count > _MAX_FILES:
                message = f"{folder} holds more than {_MAX_FILES:,} files"
                raise ArtifactError(message, "name a folder that holds the model and nothing else")
            yield _regular(Path(here) / name)


def _raise(error: OSError) -> None:
    raise error


def _regular(file: Path) -> Path:
    if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would wait for its writer
        raise ArtifactError(f"{file} is not a regular file", "remove it")
    return file


def _marks(files: tuple[Path, ...]) -> list[tuple[int, int]]:
    try:
        return [(found.st_size, found.st_mtime_ns) for found in (file.stat() for file in files)]
    except OSError as error:
        raise ArtifactError(f"{error.filename} can't be read: {error.strerror}") from None


def _digest(path: Path, files: tuple[Path, ...], extra: bytes) -> str:
    """Over what is in the files and, in a folder, how they are called there."""
    names = [str(file.relative_to(path)) for file in files] if files != (path,) else []
    return digest_of(files, extra + json.dumps(names).encode())


def _parse(file: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ArtifactError(f"{file} can't be read: {error.strerror}") from None
    except SyntaxError as error:
        message, fix = f"is not Python: {error.msg}", "correct it here, or just before"
        raise _wrong(file, message, fix, error.lineno or 1, error.offset or 1) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise _wrong(file, f"is not Python: {error or type(error).__name__}", "correct it") from None


def _check_class(entry: Entry, module: ast.Module) -> None:
    """The class can be made and asked, as far as can be seen without running anything."""
    classes = {node.name: node for node in _top(module.body) if isinstance(node, ast.ClassDef)}
    if entry.name not in classes:
        if {entry.name, "*"} & set(_bound(module.body)):  # imported, or made: only running it would tell
            return
        known = ", ".join(f"`{name}`" for name in classes)
        fix = f"its classes are {known}" if known else "write the class there"
        raise ArtifactError(f"{entry.file.name} has no class {entry.name!r}", fix, "class")
    node = classes[entry.name]
    methods, closed = _methods(node, classes)
    predict = methods.get("predict")
    if predict is None:
        if closed:
            message, fix = f"the class {entry.name!r} has no method `predict`", "add `def predict(self, inputs):`"
            raise _wrong(entry.file, message, fix, node.lineno, node.col_offset + 1)
    else:
        _check_arguments(entry, predict, ("inputs", "parameters"), 1)
    for name in ("__init__", "load", "example"):
        if (method := methods.get(name)) is not None:
            _check_arguments(entry, method, (), 0)


def _check_arguments(
    entry: Entry, method: ast.FunctionDef | ast.AsyncFunctionDef, given: tuple[str, ...], least: int
) -> None:
    """Whether a method can be called with `least` of what is given to it, or all."""
    form = f"def {method.name}({', '.join(('self', *given[:least]))}):"
    if isinstance(method, ast.AsyncFunctionDef):
        message = f"`{method.name}` is async, and nobody would await it"
        raise _wrong(entry.file, message, f"write `{form}`", method.lineno, method.col_offset + 1)
    if method.decorator_list:
        return
    arguments = method.args
    named = len(arguments.posonlyargs) + len(arguments.args)
    takes = named - 1 + (len(given) if arguments.vararg else 0)
    needs = named - 1 - len(arguments.defaults)
    if not arguments.vararg and named == 0:
        takes = -1  # not even self
    if takes < least or needs > len(given) or None in arguments.kw_defaults:
        message = (
            f"`{method.name}` takes other arguments than it gets, which are ({', '.join(('self', *given[:least]))})"
        )
        raise _wrong(entry.file, message, f"write `{form}`", method.lineno, method.col_offset + 1)


def _methods(
    node: ast.ClassDef, classes: dict[str, ast.ClassDef]
) -> tuple[dict[str, ast.FunctionDef | ast.AsyncFunctionDef], bool]:
    """The methods that a class has, and whether these are all: a base from elsewhere may have more."""
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    closed, left, seen = True, [node], {node.name}
    while left:
        one = left.pop(0)
        bound = set(_bound(one.body))
        for member in _top(one.body):
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(member.name, member)
                bound.discard(member.name)
        closed = closed and "predict" not in bound
        for base in one.bases:
            if isinstance(base, ast.Name) and base.id in classes and base.id not in seen:
                seen.add(base.id)
                left.append(classes[base.id])
            elif not (isinstance(base, ast.Name) and base.id in {"object", *seen}):
                closed = False
    return found, closed and not node.decorator_list and not node.keywords


def _top(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, and those under its conditions."""
    for node in body:
        yield node
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from _top(getattr(node, part, []))
        for case in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from _top(case.body)


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a body give to something."""
    for node in _top(body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _wrong(file: Path, message: str, fix: str, line: int = 1, column: int = 1) -> ArtifactError:
    return ArtifactError(message, fix, file=str(file), line=line, column=column)
