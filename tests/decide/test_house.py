"""The house keeps its own rules: sizes, floors, silence at import, and nothing of one machine in a tracked file."""

from __future__ import annotations

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from servery.cli.app import COMMANDS, build

ROOT = Path(__file__).parents[2]

# Alembic runs this file as a script; it has no other purpose.
_SCRIPTS = {"servery.store.migrations.env"}

_IMPORT_ALL = """
import importlib, sys, threading
writing = []
def watch(event, arguments):
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        if any(letter in (mode or "") for letter in "wax+") or (mode is None and flags & 3):
            writing.append((event, str(arguments[0])))
    elif event.split(".")[0] in ("subprocess", "sqlite3") or event in (
        "socket.bind", "socket.connect", "socket.sendto", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.system",
        "os.putenv", "os.fork", "os.posix_spawn", "signal.pthread_kill",
    ):
        writing.append((event, str(arguments)[:80]))
modules = sys.argv[1:]
parts = ("onnxruntime", "onnx", "sqlalchemy", "alembic.command", "uvicorn", "uvloop", "typer", "rich.table", "ruamel.yaml",
         "google.protobuf.internal.builder", "grpc.aio")
for part in parts:
    importlib.import_module(part)
alive, before = threading.active_count(), set(sys.modules)
sys.addaudithook(watch)
for module in modules:
    importlib.import_module(module)
print(writing, threading.active_count() - alive)
"""


class Function(msgspec.Struct, frozen=True):
    """A function or method: where it stands, its lines, its parameters but self or cls."""

    where: str
    lines: int
    parameters: int


@cache
def tracked() -> tuple[Path, ...]:
    """What git tracks and the working tree still has."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        reason = "git is not installed" if git is None else "this is not a git checkout"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, timeout=20).stdout
    files = (ROOT / name for name in listed.decode().split("\0") if name and "_pb2." not in name)  # not ours to shape
    return tuple(file for file in files if file.is_file())


def python(*folders: str) -> list[Path]:
    tops = [ROOT / folder for folder in folders]
    return [file for file in tracked() if file.suffix == ".py" and any(top in file.parents for top in tops)]


def lines(file: Path) -> int:
    return len(file.read_text("utf-8").splitlines())


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


@cache
def functions() -> tuple[Function, ...]:
    return tuple(
        function for file in python("src", "tests", "benchmarks", "docs", "examples") for function in _in(file)
    )


def _in(file: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            assert node.end_lineno is not None
            yield Function(
                f"{short(file)}:{node.lineno} {node.name}",
                node.end_lineno - node.lineno + 1,
                len(names) - (names[:1] in (["self"], ["cls"])),
            )


def test_files_are_short() -> None:
    sizes = {short(file): lines(file) for file in python("src", "tests", "benchmarks", "docs", "examples")}
    assert {name: size for name, size in sizes.items() if size > 500} == {}
    assert statistics.median(lines(file) for file in python("src")) <= 150


def test_functions_are_short() -> None:
    assert [one for one in functions() if one.lines > 70] == []
    long = [one for one in functions() if one.lines > 40]
    assert len(long) <= 0.05 * len(functions()), long


def test_functions_take_few_parameters() -> None:
    assert [one for one in functions() if one.parameters > 8] == []


def test_the_readme_is_short() -> None:
    assert lines(ROOT / "README.md") <= 140


def test_tests_hardly_mock() -> None:
    tests = [file.read_text("utf-8") for file in python("tests")]
    mocking = re.compile(r"\bmock\b|Mock\(|monkeypatch|mocker\b")
    used = sum(bool(mocking.search(line)) for text in tests for line in text.splitlines())
    assert used <= 5 * sum(len(text.splitlines()) for text in tests) / 1_000


def modules() -> dict[str, Path]:
    """Every importable module of the package."""
    top = ROOT / "src"
    found: dict[str, Path] = {}
    for file in python("src"):
        parts = file.relative_to(top).with_suffix("").parts
        if all((file.parents[up] / "__init__.py").exists() for up in range(len(parts) - 1)):
            found[".".join(parts).removesuffix(".__init__")] = file
    return found


def _imported(name: str, file: Path, known: set[str]) -> set[str]:
    """What a module imports of the others, wherever in it that stands; imports for types alone don't count."""
    tree = ast.parse(file.read_text("utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return (found & known) - {name}


def test_imports_make_no_ring() -> None:
    known = modules()
    left = {name: _imported(name, file, set(known)) for name, file in known.items()}
    while free := {name for name, wanted in left.items() if not wanted & set(left)}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert left == {}


def test_every_module_is_reached_from_a_door() -> None:
    """Dead code: a module that nobody imports and that is no door to the outside."""
    known = modules()
    doors = {"servery.wiring.__main__", *_SCRIPTS, *(command.module for command in COMMANDS), "servery.cli.app"}
    reached = {other for name, file in known.items() for other in _imported(name, file, set(known))}
    packages = {name for name, file in known.items() if file.name == "__init__.py"}
    migrations = {name for name in known if name.startswith("servery.store.migrations.")}
    assert set(known) - reached - doors - packages - migrations == set()


def test_importing_anything_has_no_effect(tmp_path: Path) -> None:
    names = sorted(set(modules()) - _SCRIPTS)
    assert len(names) > 50
    result = subprocess.run(
        [sys.executable, "-B", "-c", _IMPORT_ALL, *names],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "[] 0\n", "")
    assert list(tmp_path.iterdir()) == []


# What every start waits for. numpy would double it: whoever needs it there imports it when it is asked for.
_LIGHT = (
    "control.loop", "control.rollouts", "control.gates", "control.experiments", "control.gathered", "control.observe",
    "control.alarms", "web.operations", "web.door", "web.gate", "store.shipper", "store.carrier", "cli.plan", "cli.apply", "cli.manifest",
)  # fmt: skip


def test_the_controller_the_shipper_and_commands_start_without_numpy() -> None:
    code = f"import sys, {', '.join(f'servery.{name}' for name in _LIGHT)}; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=50)
    assert done.stdout == "False\n"


def texts() -> Iterator[tuple[str, str]]:
    for file in tracked():
        try:
            yield short(file), file.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # an artifact


@pytest.mark.parametrize(
    "told",
    [
        r"pypi\.(org|python)|pythonhosted\.|index[-]url|registry\.npmjs|ghcr\.io|conda\.anaconda|proxy\.golang",
        r"(?<![\w.])/(home|Users|root|work|mnt|media)/\w",
        r"[A-Z]:\\\\?Users",
        r"BEGIN [A-Z ]*PRIVATE" + " KEY",
    ],
    ids=["a package registry", "a path of one machine", "a path of one other machine", "a secret"],
)
def test_no_tracked_file_holds(told: str) -> None:
    pattern = re.compile(told)
    found = [(name, match.group()) for name, text in texts() if (match := pattern.search(text))]
    assert found == []


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner, f"{name} {inner.name}")


def test_every_command_and_every_option_has_help() -> None:
    silent: list[str] = []
    for declared in COMMANDS:
        root: Any = typer.main.get_command(build(declared.name))
        command = root.commands[declared.name]
        assert declared.help
        for name, one in _commands(command, declared.name):
            if not (one.help or "").strip():
                silent.append(name)
            told = {one.name: getattr(one, "help", None) for one in one.params if one.name != "help"}
            silent += [f"{name} {parameter}" for parameter, text in told.items() if not (text or "").strip()]
    assert silent == []
