"""Content under lock: AES-256-GCM with a key for each Record, derived from one of the operator's keys.

Each Record's own key (HKDF-Expand of RFC 5869 over its id) keeps random nonces from ever meeting under one key, however many
Records there are. Tenant and Record are bound to what is encrypted: a box that was moved to another row doesn't open.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from servery.terms.content import Content, ContentKey, Kept, Sealed

KEY_BYTES = 32
MAKE_ONE = "`openssl rand -base64 32` makes one"
_NONCE_BYTES = 12
_ZLIB_LEVEL = 1  # JSON becomes a third of its length at this one already
_URL_SAFE = str.maketrans("-_", "+/")  # keys may be written either way
_INFO = b"servery content 1"


class BadKeys(Exception):
    """What should hold keys doesn't. The message never holds any part of them; it begins after the place's name."""


class Unreadable(Exception):
    """Content that can't be opened: its key isn't there, or it isn't what was written."""


def parse_keys(text: str) -> tuple[bytes, ...]:
    """The keys in a text, parted by commas or white space: the first one encrypts, all of them decrypt. BadKeys."""
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words:
        raise BadKeys(f"holds no key: write {KEY_BYTES} random bytes in base64 ({MAKE_ONE})")
    found: list[bytes] = []
    for number, word in enumerate(words, 1):
        bare = word.translate(_URL_SAFE).rstrip("=")
        try:
            key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            message = f"holds something else than keys at place {number}: each is {KEY_BYTES} bytes in base64"
            raise BadKeys(f"{message} ({MAKE_ONE})")
        found.append(key)
    return tuple(found)


def read_keys(declared: ContentKey | None, file: Path, environment: Mapping[str, str]) -> tuple[bytes, ...]:
    """The keys where they are declared to be, or in `file`. OSError, BadKeys."""
    if declared is None:
        where, text = str(file), file.read_bytes().decode(errors="replace")
    else:
        where, text = f"the environment variable {declared.env}", environment.get(declared.env, "")
    try:
        return parse_keys(text)
    except BadKeys as error:
        raise BadKeys(f"{where} {error}") from None


def new_key() -> str:
    """A key as it is written down."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


class Sealer:
    """Encrypts with the first of some keys, and opens what any of them has encrypted. May be used by any thread."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 (10 MB: for those who keep Content)
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

        self._cipher, self._wrong = AESGCM, InvalidTag
        self._keys = {_key_id(key): key for key in reversed(keys)}
        self.key_id = _key_id(keys[0])
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Content).decode

    @property
    def key_ids(self) -> tuple[str, ...]:
        """What its keys are called, the one that encrypts first."""
        return tuple(reversed(self._keys))

    def seal(self, kept: Kept) -> Sealed:
        """Encrypt what is kept."""
        record_id, tenant = kept.record_id, kept.tenant
        nonce = os.urandom(_NONCE_BYTES)
        plain = zlib.compress(self._encode(kept.make()), _ZLIB_LEVEL)
        box = nonce + self._of(self.key_id, record_id).encrypt(nonce, plain, _bound(record_id, tenant))
        return Sealed(record_id, tenant, kept.region, kept.expires_ns, self.key_id, box)

    def open(self, sealed: Sealed) -> Content:
        """Decrypt. Unreadable says what is missing."""
        if sealed.key_id not in self._keys:
            have = ", ".join(self.key_ids)
            raise Unreadable(f"it was encrypted with the key {sealed.key_id}, and there is only {have}")
        nonce, rest = sealed.box[:_NONCE_BYTES], sealed.box[_NONCE_BYTES:]
        bound = _bound(sealed.record_id, sealed.tenant)
        try:
            return self._decode(zlib.decompress(self._of(sealed.key_id, sealed.record_id).decrypt(nonce, rest, bound)))
        except (self._wrong, ValueError, zlib.error, msgspec.DecodeError):
            raise Unreadable("it isn't what was written for this Record and tenant") from None

    def _of(self, key_id: str, record_id: bytes):
        key = hmac.digest(self._keys[key_id], _INFO + record_id + b"\x01", "sha256")
        return self._cipher(key)


def _bound(record_id: bytes, tenant: str) -> bytes:
    """What is authenticated beside the content. An id's length is fixed, so no two pairs make the same bytes."""
    return record_id + tenant.encode()


def _key_id(key: bytes) -> str:
    return hashlib.blake2b(key, digest_size=6, person=b"servery-key-id").hexdigest()
