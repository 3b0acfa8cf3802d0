"""API keys: hashed at rest, compared in constant time, compiled once per Table."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from servery.terms.manifest import Subscription, Tenant
from servery.terms.request import Caller

# Who asks when no tenants are declared; such a Servery listens on loopback only.
LOCAL_TENANT = "local"
OWN_TENANT = "servery"  # of what nobody else asked for: checks of a new version
SEAL_BYTES = 4

Owner = TypeVar("Owner")


def seal(secret: bytes, tenant: str) -> bytes:
    """Four bytes that mark a tenant's record ids, meaningless without this installation's secret."""
    return hmac.digest(secret, tenant.encode(), "sha256")[:SEAL_BYTES]


class Hashed(Generic[Owner]):
    """Who has which key, of which only the SHA-256 (64 hex digits) is known.

    Hashes are looked up by their first bytes and compared whole, in constant time.
    """

    def __init__(self, owners: Iterable[tuple[str, Owner]]) -> None:
        self._owners: dict[bytes, list[tuple[bytes, Owner]]] = {}
        for sha256, owner in owners:
            digest = bytes.fromhex(sha256)
            self._owners.setdefault(digest[:8], []).append((digest, owner))

    def find(self, key: bytes) -> Owner | None:
        """Whose key this is."""
        presented = hashlib.sha256(key).digest()
        for digest, owner in self._owners.get(presented[:8], ()):
            if hmac.compare_digest(digest, presented):
                return owner
        return None


class Keyring:
    """Finds the Caller of a key."""

    def __init__(
        self, tenants: Mapping[str, Tenant], secret: bytes, subscriptions: Mapping[str, Subscription] | None = None
    ) -> None:
        self.open = not tenants
        self.local = Caller(LOCAL_TENANT, "", "standard", frozenset(), seal(secret, LOCAL_TENANT), operator=True)
        self.seals = {seal(secret, name) for name in tenants or (LOCAL_TENANT,)}
        self._found: dict[bytes, Caller] = {}
        self._callers = Hashed(self._declared(tenants, secret, subscriptions or {}))

    @staticmethod
    def _declared(
        tenants: Mapping[str, Tenant], secret: bytes, subscriptions: Mapping[str, Subscription]
    ) -> Iterable[tuple[str, Caller]]:
        for name, tenant in tenants.items():
            subscription = subscriptions.get(tenant.subscription, Subscription())
            for key in tenant.keys:
                caller = Caller(
                    name,
                    key.id,
                    tenant.subscription,
                    frozenset(tenant.regions),
                    seal(secret, name),
                    subscription.priority,
                    tenant.isolation == "dedicated",
                    key.role == "operator",
                )
                yield key.sha256, caller

    def find(self, key: bytes) -> Caller | None:
        """The Caller whose key this is.

        A key that was found is remembered until the Table is replaced, so that it is hashed once. Guessing against that
        memory by timing fails: Python looks bytes up by a hash keyed per process, and compares only on a full match.
        """
        caller = self._found.get(key)
        if caller is not None:
            return caller
        caller = self._callers.find(key)
        if caller is not None:
            self._found[key] = caller
        return caller
