"""Keys: the right one finds its tenant, any other finds nobody."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.gateway.identify import identify
from servery.identity.keys import LOCAL_TENANT, SEAL_BYTES, Keyring, seal
from servery.terms.manifest import Key, Tenant
from servery.terms.reasons import Reason, Refusal

SECRET = b"s" * 32


def tenant(*keys: bytes, regions: tuple[str, ...] = ()) -> Tenant:
    return Tenant(
        tuple(Key(f"k{at}", hashlib.sha256(key).hexdigest()) for at, key in enumerate(keys)), "gold", regions=regions
    )


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=6, unique=True), st.binary(max_size=40))
def test_a_key_finds_its_own_tenant_and_no_other(keys: list[bytes], stranger: bytes) -> None:
    tenants = {"acme": tenant(*keys[:-1]), "zeta": tenant(keys[-1], regions=("uae",))}
    keyring = Keyring(tenants, SECRET)
    for at, key in enumerate(keys[:-1]):
        found = keyring.find(key)
        assert found is not None
        assert (found.tenant, found.key, found.subscription) == ("acme", f"k{at}", "gold")
    last = keyring.find(keys[-1])
    assert last is not None
    assert (last.tenant, last.regions) == ("zeta", frozenset({"uae"}))
    if stranger not in keys:
        assert keyring.find(stranger) is None


def test_hashes_that_begin_alike_are_told_apart() -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    alike = digest[:16] + "0" * 48
    keyring = Keyring({"a": Tenant((Key("k", alike),)), "b": Tenant((Key("k", digest),))}, SECRET)
    found = keyring.find(b"right")
    assert found is not None
    assert found.tenant == "b"


def test_a_hash_is_no_key() -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    keyring = Keyring({"a": tenant(b"right")}, SECRET)
    assert keyring.find(digest.encode()) is None
    assert keyring.find(bytes.fromhex(digest)) is None


def test_without_tenants_everybody_is_local() -> None:
    keyring = Keyring({}, SECRET)
    assert keyring.open
    assert identify(keyring, None).tenant == identify(keyring, b"any").tenant == LOCAL_TENANT
    assert keyring.seals == {seal(SECRET, LOCAL_TENANT)}


@pytest.mark.parametrize("key", [None, b"", b"wrong", b"right "])
def test_with_tenants_a_stranger_is_told_what_to_send(key: bytes | None) -> None:
    keyring = Keyring({"acme": tenant(b"right")}, SECRET)
    with pytest.raises(Refusal) as refused:
        identify(keyring, key)
    assert refused.value.reason is Reason.UNAUTHENTICATED
    assert "key" in refused.value.message
    assert "right" not in refused.value.message


def test_seals_differ_by_tenant_and_by_installation() -> None:
    assert len({seal(SECRET, "a"), seal(SECRET, "b"), seal(b"other" * 8, "a")}) == 3
    assert len(seal(SECRET, "é" * 100)) == SEAL_BYTES
    assert Keyring({"a": tenant(b"1"), "b": tenant(b"2")}, SECRET).seals == {seal(SECRET, "a"), seal(SECRET, "b")}
