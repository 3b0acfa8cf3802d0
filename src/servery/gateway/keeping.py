"""Whose Content is kept: the tenants' policies, ready for use in a Table."""

from __future__ import annotations

import msgspec

from servery.identity.keys import LOCAL_TENANT
from servery.terms.content import ContentPolicy
from servery.terms.manifest import Manifest
from servery.terms.record import RECORD_ID_BYTES
from servery.terms.residency import may_flow

_DAY_NS = 86_400 * 10**9
_LOT = slice(RECORD_ID_BYTES - 4, RECORD_ID_BYTES)  # random bits of an id


class Keeping(msgspec.Struct, frozen=True):
    """A tenant's policy, ready for use. No `routes`: all. `most`: a Record whose lot is above it isn't in the sample."""

    routes: frozenset[str]
    most: int
    keep_ns: int
    region: str

    def wants(self, route: str, record_id: bytes) -> bool:
        """Whether the Content of this Record is kept."""
        return (not self.routes or route in self.routes) and int.from_bytes(record_id[_LOT]) <= self.most


def keepings(manifest: Manifest) -> dict[str, Keeping]:
    """By tenant, of those whose Content is kept, and may rest where this Servery runs."""
    declared = {name: (tenant.content, tenant.regions) for name, tenant in manifest.tenants.items()}
    if not declared:
        declared = {LOCAL_TENANT: (manifest.content, ())}
    return {
        name: _keeping(policy, manifest.region)
        for name, (policy, regions) in declared.items()
        if policy is not None and may_flow(regions, manifest.region)
    }


def _keeping(policy: ContentPolicy, region: str) -> Keeping:
    most = round(policy.sample * (2**32 - 1))
    return Keeping(frozenset(policy.routes), most, policy.keep_days * _DAY_NS, region)
