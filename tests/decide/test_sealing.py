"""Content under lock: what was sealed opens with its key, for its Record and tenant, and in no other way."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lines import new_id
from servery.store.sealing import BadKeys, Sealer, Unreadable, new_key, parse_keys, read_keys
from servery.terms.content import Content, ContentKey, Kept

OLD, NEW = new_key(), new_key()
SEALER = Sealer(parse_keys(NEW))
RECORD = new_id(10**18)

contents = st.builds(
    Content, st.text(max_size=20), st.binary(max_size=300), st.tuples(st.binary(max_size=300)), st.booleans()
)


def kept(content: Content, record_id: bytes = RECORD, tenant: str = "acme") -> Kept:
    return Kept(record_id, tenant, "uae", 7, 0, lambda: content)


@given(contents, st.text(max_size=12))
def test_what_is_sealed_opens_as_it_was(content: Content, tenant: str) -> None:
    sealed = SEALER.seal(kept(content, tenant=tenant))
    assert SEALER.open(sealed) == content
    assert (sealed.record_id, sealed.tenant, sealed.region, sealed.expires_ns) == (RECORD, tenant, "uae", 7)
    assert sealed.key_id == SEALER.key_id


@given(st.binary(min_size=12, max_size=300).filter(lambda told: len(set(told)) > 6))
def test_nothing_of_it_is_seen(told: bytes) -> None:
    sealed = SEALER.seal(kept(Content("chat/completions", told, (told,))))
    assert told not in sealed.box
    assert b"chat" not in sealed.box


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_one_changed_byte_and_it_does_not_open(at: int, by: int) -> None:
    sealed = SEALER.seal(kept(Content("f", b"asked", (b"answered",))))
    box = bytearray(sealed.box)
    box[at % len(box)] ^= by
    with pytest.raises(Unreadable, match="isn't what was written"):
        SEALER.open(msgspec.structs.replace(sealed, box=bytes(box)))


@pytest.mark.parametrize("moved", [{"tenant": "beta"}, {"tenant": "acm"}, {"record_id": new_id(10**18)}])
def test_a_box_opens_only_in_its_own_row(moved: dict[str, object]) -> None:
    sealed = SEALER.seal(kept(Content("f", b"asked", ())))
    with pytest.raises(Unreadable, match="isn't what was written"):
        SEALER.open(msgspec.structs.replace(sealed, **moved))


@pytest.mark.parametrize("box", [b"", b"short", b"x" * 12, b"x" * 28])
def test_a_box_that_is_cut_does_not_open(box: bytes) -> None:
    with pytest.raises(Unreadable):
        SEALER.open(msgspec.structs.replace(SEALER.seal(kept(Content("f", b"", ()))), box=box))


def test_the_same_twice_is_two_boxes() -> None:
    content = Content("f", b"asked", ())
    assert SEALER.seal(kept(content)).box != SEALER.seal(kept(content)).box


def test_keys_are_exchanged_one_after_the_other() -> None:
    content = Content("f", b"asked", ())
    before = Sealer(parse_keys(OLD)).seal(kept(content))
    both = Sealer(parse_keys(f"{NEW}, {OLD}"))
    after = both.seal(kept(content))
    assert both.open(before) == both.open(after) == content
    assert both.key_ids == (SEALER.key_id, before.key_id)
    assert after.key_id == SEALER.key_id
    assert SEALER.open(after) == content
    with pytest.raises(Unreadable, match=rf"with the key {before.key_id}, and there is only {SEALER.key_id}$"):
        SEALER.open(before)


@pytest.mark.parametrize("parted", ["\n", ",", " , ", "\n\n", ",\n"])
def test_keys_stand_one_after_the_other(parted: str) -> None:
    keys = parse_keys(f"{NEW}{parted}{OLD}{parted}")
    assert keys == (*parse_keys(NEW), *parse_keys(OLD))


@given(st.binary(min_size=32, max_size=32))
def test_a_key_may_be_written_in_either_base64(key: bytes) -> None:
    plain, safe = base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()
    assert parse_keys(plain) == parse_keys(safe) == parse_keys(safe.rstrip("=")) == (key,)


SECRET = "c2VjcmV0"
BAD = [
    ("", "no key"),
    (" \n,", "no key"),
    (SECRET, "at place 1"),
    (f"{NEW} {SECRET}", "at place 2"),
    (base64.b64encode(os.urandom(31)).decode(), "at place 1"),
    (f"{NEW[:-2]}é=", "at place 1"),
]


@pytest.mark.parametrize(
    ("text", "said"), BAD, ids=["nothing", "blanks", "short", "a second", "a byte too few", "no base64"]
)
def test_what_is_no_key_is_said_without_telling_it(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "content.key"
    file.write_text(text)
    for declared, place in ((None, str(file)), (ContentKey("A_KEY"), "the environment variable A_KEY")):
        with pytest.raises(BadKeys, match=f"^{re.escape(place)} holds .*{said}") as caught:
            read_keys(declared, file, {"A_KEY": text})
        assert not [word for word in text.split() if word in str(caught.value)]


def test_a_key_that_is_nowhere_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="the environment variable A_KEY holds no key"):
        read_keys(ContentKey("A_KEY"), tmp_path, {})
    with pytest.raises(FileNotFoundError):
        read_keys(None, tmp_path / "content.key", {})
