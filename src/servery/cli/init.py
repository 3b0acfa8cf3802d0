"""`servery init DIR`: a copy of the digits example, to run as it is and then to change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from servery.cli.child import typed

EXAMPLE = ("servery.yaml", "train.py", "send.py", "README.md", ".gitignore")
MODELS = ("models/cheap.onnx", "models/mid.onnx", "models/premium.onnx", "held-out.csv")
INSTALL = "pip install 'servery[examples]'"


class Stopped(Exception):
    """The example can't be written or trained; the message says why and what to do."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write the example; made if it is missing")],
    train: Annotated[bool, typer.Option(help="train the three models too (a few seconds)")] = True,
) -> None:
    """Write an example to start from: manifest, training, a caller."""
    try:
        copy_example(folder)
        typer.echo(f"wrote {', '.join(EXAMPLE)} into {folder}")
        if train and can_train():
            train_models(folder)
    except Stopped as stopped:
        typer.echo(f"servery init: {stopped}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(["", "Next:", *(f"  {line}" for line in next_commands(folder))]))


def copy_example(folder: Path) -> None:
    """Write the example's files into `folder`; Stopped, with nothing written, where one of them exists already."""
    taken = [name for name in EXAMPLE if (folder / name).exists()]
    if taken:
        raise Stopped(f"{folder} already has {', '.join(taken)}; nothing was written: give an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("servery") / "scaffold" / "digits") as source:
            for name in EXAMPLE:
                shutil.copyfile(source / name, folder / name)
    except OSError as error:
        raise Stopped(f"{error.filename or folder} can't be written: {error.strerror}") from None


def can_train() -> bool:
    """Whether what train.py imports is installed."""
    return all(find_spec(name) for name in ("sklearn", "skl2onnx"))


def is_trained(folder: Path) -> bool:
    return all((folder / name).exists() for name in MODELS)


def train_models(folder: Path) -> None:
    """Run the folder's train.py, showing what it prints."""
    if not can_train():
        raise Stopped(f"scikit-learn and skl2onnx are needed to train the models: {INSTALL}")
    if subprocess.run([sys.executable, folder / "train.py"], stdin=subprocess.DEVNULL, check=False).returncode:
        raise Stopped(f"{folder / 'train.py'} failed; its message is above")


def next_commands(folder: Path) -> list[str]:
    """What to type now: training first where it has not been done."""
    training = (
        [] if is_trained(folder) else [*([] if can_train() else [INSTALL]), f"{typed('python')} {folder}/train.py"]
    )
    return [
        *training,
        f"{typed('servery')} check {folder}/servery.yaml",
        f"{typed('servery')} up {folder}/servery.yaml",
        f"{typed('python')} {folder}/send.py    (in a second terminal)",
    ]
