"""Content codings: which one a caller likes best, and that what was encoded comes back."""

from __future__ import annotations

import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.terms.reasons import Reason, Refusal
from servery.wire.coding import chosen, decoded, encoded, is_coded

MOST = 1 << 20


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"", b""),
        (b"identity", b""),
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br, zstd", b"gzip"),
        (b"gzip;q=0.5, deflate", b"deflate"),
        (b"GZIP;q=0", b""),
        (b"gzip;q=0, *", b"deflate"),
        (b"*", b"gzip"),
        (b"*;q=0", b""),
        (b"br", b""),
        (b"gzip;q=high", b""),
        (b";;,,=", b""),
    ],
)
def test_the_coding_that_is_liked_best(accepted: bytes, coding: bytes) -> None:
    assert chosen(accepted) == coding


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from([b"gzip", b"deflate"]))
def test_what_was_encoded_comes_back(chunks: list[bytes], coding: bytes) -> None:
    body = encoded(coding, chunks)
    assert decoded(coding, body, MOST) == b"".join(chunks)
    assert decoded(b" " + coding.upper(), body, MOST) == b"".join(chunks)


@given(st.binary(max_size=2_000))
def test_bare_deflate_is_understood_too(content: bytes) -> None:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    assert decoded(b"deflate", stream.compress(content) + stream.flush(), MOST) == content


@given(st.binary(max_size=200), st.sampled_from([b"gzip", b"deflate"]))
def test_anything_else_is_a_refusal(body: bytes, coding: bytes) -> None:
    with contextlib.suppress(Refusal):  # and no other error
        assert len(decoded(coding, body, MOST)) <= MOST


@pytest.mark.parametrize("size", [MOST - 1, MOST, MOST + 1, 3 * MOST])
def test_the_bound_is_exact(size: int) -> None:
    body = encoded(b"gzip", [bytes(size)])
    if size <= MOST:
        assert len(decoded(b"gzip", body, MOST)) == size
    else:
        with pytest.raises(Refusal) as raised:
            decoded(b"gzip", body, MOST)
        assert raised.value.reason is Reason.TOO_LARGE


def test_what_has_to_be_decoded() -> None:
    assert is_coded(b"GZip")
    assert is_coded(b"deflate")
    assert not is_coded(b"identity")
    with pytest.raises(Refusal):
        is_coded(b"br")
