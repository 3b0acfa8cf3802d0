"""A Request from the moment its Caller is known to its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from servery.terms.text import Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"  # who only knows Callers needs no numpy
Scalar: TypeAlias = bool | int | float | str
Parameters: TypeAlias = tuple[tuple[str, Scalar], ...]  # by name


class Caller(msgspec.Struct, frozen=True):
    """Who asks. `seal` marks the ids of this tenant's Records; `regions` limits where its data may flow (empty: anywhere).

    `priority` is that of the subscription; with `alone` its rows share a batch with nobody else's.
    """

    tenant: str
    key: str
    subscription: str
    regions: frozenset[str]
    seal: bytes
    priority: int = 0
    alone: bool = False
    operator: bool = False  # may load and unload models


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """A named array. BYTES are object arrays of `bytes`; BF16 travels as its raw 16 bits (UINT16)."""

    name: str
    datatype: str
    array: Array


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """An output that the caller asks for, and whether as binary data."""

    name: str
    binary: bool


class Inference(msgspec.Struct, frozen=True, gc=False):
    """What a caller asks of a Route, decoded but not yet held against the Route's inputs."""

    id: str
    inputs: Sequence[Tensor]
    wanted: tuple[Wanted, ...]  # empty: all outputs
    binary: bool  # the form of outputs that aren't listed
    timeout_ns: int  # 0: none stated
    parameters: Parameters = ()  # of the request, but those that the protocol itself reads
    raw: bytes | None = None  # the data of the one input, whose name and type weren't said


class Request(msgspec.Struct, frozen=True, gc=False):
    """An ask that fits its Route. `feeds` are the arrays by input name; times are steady ns."""

    id: bytes
    caller: Caller
    inference: Inference
    feeds: dict[str, Array]
    rows: int
    started_ns: int
    deadline_ns: int


class Call(msgspec.Struct, frozen=True, gc=False):
    """One call of a Version for one Request, with what a queue needs to place it."""

    fetch: Sequence[str]
    feeds: dict[str, Array]
    rows: int
    deadline_ns: int  # steady
    tenant: str = ""
    priority: int = 0  # larger is sooner
    alone: bool = False  # its rows share a batch with no other tenant's
    parameters: Parameters = ()  # of the request


class Called(msgspec.Struct, frozen=True, gc=False):
    """What one call of a Version gave: outputs by name, or a failure with a message for the log."""

    outputs: dict[str, Array]
    busy_ns: int
    failure: str = ""  # a Reason's word
    message: str = ""
    estimated: bool = False
    pico_usd: int = 0  # beside busy time: what its tokens cost
    tokens: Tokens | None = None
    first_ns: int = 0
    answered_as: str = ""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The outputs for all rows in order, and who answered how many of them."""

    outputs: Sequence[Tensor]
    tiers: str
    models: str
    versions: str
    degraded: str = ""


def by_count(counts: Iterable[tuple[str, int]]) -> str:
    """`cheap=40,mid=20`: who answered how many rows. The same name twice is added up."""
    total: dict[str, int] = {}
    for name, count in counts:
        total[name] = total.get(name, 0) + count
    return ",".join(f"{name}={count}" for name, count in total.items())
