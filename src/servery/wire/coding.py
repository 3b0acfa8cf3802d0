"""Content codings of HTTP (RFC 9110, 8.4): gzip and deflate, within bounds. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from servery.terms.reasons import Reason, Refusal
from servery.wire.tensors import bad

Chunk = bytes | memoryview

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits, which choose the format
_FAST = 1  # the level: what is sent is soon decoded again
_FORMATS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}


def is_coded(encoding: bytes) -> bool:
    """Whether a body with this Content-Encoding has to be decoded. Refusal for codings that aren't known."""
    name = encoding.strip().lower()
    if name in _FORMATS:
        return True
    if name not in (b"", b"identity"):
        raise Refusal(
            Reason.UNSUPPORTED_ENCODING,
            f"Content-Encoding '{encoding.decode('latin-1')[:32]}' is not understood; send gzip, deflate, or the body as it is",
        )
    return False


def decoded(encoding: bytes, body: bytes, most: int) -> bytes:
    """The body that was encoded. Refusal where it can't be decoded whole, or is larger than `most` bytes; no more than
    that is ever held.
    """
    name = encoding.strip().lower().decode()
    bits = _FORMATS[name.encode()]
    if bits == _ZLIB and not _has_zlib_head(body):  # some clients take the name for the bare format
        bits = _RAW
    stream = zlib.decompressobj(bits)
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise bad(f"the body is not {name}, as Content-Encoding says: {error}") from None
    if len(plain) > most:
        raise Refusal(
            Reason.TOO_LARGE,
            f"the body has more than {most >> 20} MiB once it is decoded, which is all that is taken (server.max_body_mb)",
        )
    if not stream.eof:
        raise bad(f"the body's {name} stream ends too early")
    if stream.unused_data:
        raise bad(f"{len(stream.unused_data)} bytes follow the end of the body's {name} stream")
    return plain


def _has_zlib_head(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def chosen(accepted: bytes) -> bytes:
    """The coding that an Accept-Encoding header likes best of ours: b"gzip", b"deflate", or b"" for none."""
    weights: dict[bytes, float] = {}
    for part in accepted.lower().split(b","):
        name, *parameters = [piece.strip() for piece in part.split(b";")]
        weights[name] = _weight(parameters)
    best = max((b"gzip", b"deflate"), key=lambda name: weights.get(name, weights.get(b"*", 0.0)))
    return best if weights.get(best, weights.get(b"*", 0.0)) > 0 else b""


def _weight(parameters: Sequence[bytes]) -> float:
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def encoded(coding: bytes, chunks: Sequence[Chunk]) -> bytes:
    """The chunks as one body in this coding."""
    stream = zlib.compressobj(_FAST, zlib.DEFLATED, _FORMATS[coding])
    return b"".join([*[stream.compress(chunk) for chunk in chunks], stream.flush()])
