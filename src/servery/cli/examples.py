"""The examples that come with Servery: what `servery init` copies, and what each still has to make."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

import msgspec

from servery.cli.child import typed


class Stopped(Exception):
    """The example can't be written or made; the message says why and what to do."""


class Example(msgspec.Struct, frozen=True):
    """`files` are copied; `script`, one of them, makes `made` and imports `needs`, which `install` gives.

    `beside` is what has to run beside `servery up`, as it is typed; `FOLDER` in it is the example's.
    """

    name: str
    files: tuple[str, ...]
    script: str
    made: tuple[str, ...]
    needs: tuple[str, ...] = ()
    install: str = ""
    beside: str = ""


DIGITS = Example(
    "digits",
    ("servery.yaml", "train.py", "send.py", "README.md", ".gitignore"),
    "train.py",
    ("models/cheap.onnx", "models/mid.onnx", "models/premium.onnx", "held-out.csv"),
    ("sklearn", "skl2onnx"),
    "pip install 'servery[examples]'",
)
ANSWERING = ("small", "medium", "large")  # the models whose answers arithmetic.py writes
ASSISTANT = Example(
    "assistant",
    ("servery.yaml", "arithmetic.py", "send.py", "README.md", ".gitignore"),
    "arithmetic.py",
    ("answers.csv",),
    beside=" ".join(
        ["fake-vendor --port 9000 --answers FOLDER/answers.csv", *(f"--answer {name}" for name in ANSWERING)]
    ),
)
EXAMPLES = {example.name: example for example in (DIGITS, ASSISTANT)}


def copy_example(example: Example, folder: Path) -> None:
    """Write the example's files into `folder`; Stopped, with nothing written, where one of them exists already."""
    taken = [name for name in example.files if (folder / name).exists()]
    if taken:
        raise Stopped(f"{folder} already has {', '.join(taken)}; nothing was written: give an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("servery") / "scaffold" / example.name) as source:
            for name in example.files:
                shutil.copyfile(source / name, folder / name)
    except OSError as error:
        raise Stopped(f"{error.filename or folder} can't be written: {error.strerror}") from None


def can_make(example: Example) -> bool:
    """Whether what its script imports is installed."""
    return all(find_spec(name) for name in example.needs)


def is_made(example: Example, folder: Path) -> bool:
    return all((folder / name).exists() for name in example.made)


def make(example: Example, folder: Path) -> None:
    """Run the script in the folder, showing what it prints. Stopped."""
    script = folder / example.script
    if not can_make(example):
        raise Stopped(f"{script} needs {' and '.join(example.needs)}: {example.install}")
    if subprocess.run([sys.executable, script], stdin=subprocess.DEVNULL, check=False).returncode:
        raise Stopped(f"{script} failed; its message is above")


def next_commands(example: Example, folder: Path) -> list[str]:
    """What to type now: first what makes the rest of the example, where that hasn't been done."""
    python, servery = typed("python"), typed("servery")
    install = [] if can_make(example) else [example.install]
    making = [] if is_made(example, folder) else [*install, f"{python} {folder}/{example.script}"]
    beside = [f"{servery} {example.beside.replace('FOLDER', str(folder))} &"] if example.beside else []
    return [
        *making,
        f"{servery} check {folder}/servery.yaml",
        *beside,
        f"{servery} up {folder}/servery.yaml",
        f"{python} {folder}/send.py    (in a second terminal)",
    ]
