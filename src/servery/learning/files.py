"""Trained routers and verifiers in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from servery.learning.examples import Unusable
from servery.routing.learned_file import BadFile
from servery.routing.router_file import Router, decode_router, encode_router
from servery.routing.verifier_file import Trained, decode_verifier, encode_verifier

Read = TypeVar("Read")


def write_router(path: Path, router: Router) -> None:
    """Write the file whole, or not at all."""
    _write(path, encode_router(router))


def read_router(path: Path) -> Router:
    """The Router in a file; Unusable when it isn't one, or can't be one."""
    return _read(path, decode_router)


def write_verifier(path: Path, trained: Trained) -> None:
    """Write the file whole, or not at all."""
    _write(path, encode_verifier(trained))


def read_verifier(path: Path) -> Trained:
    """The verifier in a file; Unusable when it isn't one, or can't be one."""
    return _read(path, decode_verifier)


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


def _read(path: Path, decode: Callable[[bytes], Read]) -> Read:
    try:
        return decode(path.read_bytes())
    except BadFile as error:
        raise Unusable(f"{path} {error}") from None
