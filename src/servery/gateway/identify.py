"""Identify: who asks. What fails here is counted, not recorded: there is no Caller yet."""

from __future__ import annotations

from servery.identity.keys import Keyring
from servery.terms.reasons import Reason, Refusal
from servery.terms.request import Caller


def presented_key(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    """The key in `Authorization: Bearer KEY`, else the one in `x-api-key`."""
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return api_key


def identify(keyring: Keyring, key: bytes | None) -> Caller:
    """The Caller of a key; with no tenants declared, everybody (on loopback) is the local one."""
    if keyring.open:
        return keyring.local
    if key is None:
        raise Refusal(Reason.UNAUTHENTICATED, "no key was sent; send `Authorization: Bearer KEY` or `x-api-key: KEY`")
    caller = keyring.find(key)
    if caller is None:
        raise Refusal(Reason.UNAUTHENTICATED, "no tenant has this key; check it, or make one with `servery key new`")
    return caller
