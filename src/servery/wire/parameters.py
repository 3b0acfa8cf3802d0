"""The parameters of a request that the protocol leaves to models and policies."""

from __future__ import annotations

from collections.abc import Iterable

from servery.terms.request import Parameters, Scalar
from servery.wire.tensors import bad

# They are a part of what a Replica is called with in a header.
_MOST_BYTES = 8192


def bounded(given: Iterable[tuple[str, Scalar]]) -> Parameters:
    """All of them, or a Refusal where they are long."""
    parameters = tuple(given)
    size = sum(len(name.encode()) + (len(value.encode()) if type(value) is str else 8) for name, value in parameters)
    if size > _MOST_BYTES:
        raise bad(f"parameters: they take {size} bytes, and at most {_MOST_BYTES} are taken; send them as an input")
    return parameters
