"""Trained routers in files."""

from __future__ import annotations

from pathlib import Path

from servery.learning.examples import Unusable
from servery.routing.router_file import BadRouter, Router, decode_router, encode_router


def write_router(path: Path, router: Router) -> None:
    """Write the file whole, or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(encode_router(router))
    beside.replace(path)


def read_router(path: Path) -> Router:
    """The Router in a file; Unusable when it isn't one, or can't be one."""
    try:
        return decode_router(path.read_bytes())
    except BadRouter as error:
        raise Unusable(f"{path} {error}") from None
