"""What a gateway and a Replica say to each other: the Open Inference Protocol with binary tensors, and a few headers.

What a queue needs besides the tensors travels in one header, `servery-call`. Without it a call has defaults, so that
any client of the protocol can call a Replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from servery.terms.request import Array, Call, Scalar
from servery.terms.statistics import VersionStatistics
from servery.wire.oip import Chunk
from servery.wire.tensors import bad, from_binary, to_binary

Read = Callable[[int], memoryview]  # the blocks, of so many bytes in all

CALL = b"servery-call"
REASON = b"servery-reason"
BUSY = b"servery-busy-ns"
ESTIMATED = b"servery-estimated"
# Large tensors: the blocks aren't in the body but in memory that both share. A call says which;
# a reply says that they are there.
SHARED = b"servery-shared"
LARGE_BYTES = 128 * 1024  # below this a copy through the socket costs no more
UNSHARED = b"servery-unshared"  # the memory can't be reached from there: send it all
JSON_LENGTH = b"inference-header-content-length"


class CallHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The header `servery-call`, as JSON. `timeout_ns` is the time that is left; 0: none was stated."""

    rows: int
    timeout_ns: int
    tenant: str = ""
    priority: int = 0
    alone: bool = False
    parameters: tuple[tuple[str, Scalar], ...] = ()


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a Replica is: what GET v2/health/ready answers.

    `reason` is the word of a Reason, and `why` a sentence, where it isn't ready. `run` names this life of it on this
    machine, and `since_ns` (wall) is when it got ready first: every worker books its uptime under the same line.
    """

    ready: bool
    run: str
    reason: str = ""
    why: str = ""
    since_ns: int = 0
    statistics: VersionStatistics | None = None


class _Block(msgspec.Struct, gc=False):
    binary_data_size: int


class _Sent(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: Sequence[int]
    parameters: _Block


class _Wanted(msgspec.Struct, gc=False):
    name: str


class _AllBinary(msgspec.Struct, frozen=True, gc=False):
    binary_data_output: bool = True


_ALL_BINARY = _AllBinary()


class _Ask(msgspec.Struct, gc=False):
    inputs: list[_Sent]
    outputs: list[_Wanted]
    parameters: _AllBinary = _ALL_BINARY


class _Given(msgspec.Struct, gc=False):
    outputs: list[_Sent]
    model_name: str = ""


class _Error(msgspec.Struct, gc=False):
    error: str


_encode = msgspec.json.Encoder().encode
_decode_ask = msgspec.json.Decoder(_Ask).decode
_decode_given = msgspec.json.Decoder(_Given).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_decode_call = msgspec.json.Decoder(CallHead).decode
_decode_state = msgspec.json.Decoder(State).decode


def encode_call(call: Call, datatypes: Mapping[str, str]) -> tuple[list[Chunk], int]:
    """The body of a call, in chunks, and the length of its JSON part; `datatypes` are those of the inputs."""
    heads: list[_Sent] = []
    blocks: list[Chunk] = []
    for name, array in call.feeds.items():
        block = to_binary(datatypes[name], array)
        blocks.append(block)
        heads.append(_Sent(name, datatypes[name], array.shape, _Block(len(block))))
    head = _encode(_Ask(heads, [_Wanted(name) for name in call.fetch]))
    return [head, *blocks], len(head)


def decode_call(text: bytes, read: Read) -> tuple[dict[str, Array], list[str]]:
    """What `encode_call` wrote: the inputs by name, and the outputs that are wanted. Refusal; and what `read` raises."""
    try:
        ask = _decode_ask(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad(f"the call is not understood: {error}") from None
    return _tensors(ask.inputs, read), [wanted.name for wanted in ask.outputs]


def encode_call_head(call: Call, timeout_ns: int) -> bytes:
    return _encode(CallHead(call.rows, timeout_ns, call.tenant, call.priority, call.alone, call.parameters))


def decode_call_head(header: bytes) -> CallHead:
    try:
        return _decode_call(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad(f"the header servery-call is not understood: {error}") from None


def encode_outputs(
    model: str, fetch: Sequence[str], outputs: Mapping[str, Array], datatypes: Mapping[str, str]
) -> tuple[list[Chunk], int]:
    """The body of an answer, as `encode_call`. Whatever can't be written as it was declared raises (KeyError, TypeError, ValueError)."""
    heads: list[_Sent] = []
    blocks: list[Chunk] = []
    for name in fetch:
        block = to_binary(datatypes[name], outputs[name])
        blocks.append(block)
        heads.append(_Sent(name, datatypes[name], outputs[name].shape, _Block(len(block))))
    head = _encode(_Given(heads, model))
    return [head, *blocks], len(head)


def decode_outputs(text: bytes | memoryview, read: Read) -> dict[str, Array]:
    """The outputs of an answer, by name. Raises Refusal or msgspec.DecodeError for what is none, and what `read` raises."""
    return _tensors(_decode_given(text).outputs, read)


def _tensors(heads: Sequence[_Sent], read: Read) -> dict[str, Array]:
    blocks = read(sum([head.parameters.binary_data_size for head in heads]))
    tensors: dict[str, Array] = {}
    at = 0
    for head in heads:
        end = at + head.parameters.binary_data_size
        tensors[head.name] = from_binary(head.name, head.datatype, list(head.shape), blocks[at:end])
        at = end
    return tensors


def decode_error(body: bytes) -> str:
    """The message of an error; what isn't the protocol's form is cut and shown as it is."""
    try:
        return _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace")


def encode_state(state: State) -> bytes:
    return _encode(state)


def decode_state(body: bytes) -> State:
    """Raises msgspec.DecodeError for what is none."""
    return _decode_state(body)
