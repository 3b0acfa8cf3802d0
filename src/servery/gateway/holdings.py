"""What everyone who has limits may use in this worker: tenants, keys, routes and models."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from servery.gateway.allowances import Allowance
from servery.gateway.holder import Holder, of_key, of_model, of_route, of_tenant
from servery.gateway.minutes import MakeMinute
from servery.gateway.quotas import Quota, Quotas
from servery.identity.keys import LOCAL_TENANT
from servery.terms.limits import Limits
from servery.terms.manifest import Manifest
from servery.terms.money import from_usd


class Bound(msgspec.Struct, frozen=True):
    """What the limits of one Holder come to, or of several together. `most_pico`: what a Request, or of a model one call, may
    cost (pico-dollars; 0: anything).
    """

    quotas: Quotas = ()
    allowance: Allowance | None = None
    most_pico: int = 0

    def beside(self, other: Bound) -> Bound:
        """Both."""
        if self is UNBOUND:
            return other
        if other is UNBOUND:
            return self
        allowance = other.allowance if self.allowance is None else self.allowance.beside(other.allowance)
        return Bound(self.quotas + other.quotas, allowance, least(self.most_pico, other.most_pico))


UNBOUND = Bound()

MakeAllowance = Callable[[Holder, Limits], Allowance | None]


def least(one: int, other: int) -> int:
    """The smaller of two bounds, where 0 is none."""
    return min(one or other, other or one)


class Holdings:
    """Owned by the worker, so what is used and spent outlives Tables. `observed` counts what isn't refused."""

    def __init__(self, make_minute: MakeMinute, make_allowance: MakeAllowance, observed: Callable[[str], None]) -> None:
        self._make_minute = make_minute
        self._make_allowance = make_allowance
        self._observed = observed
        self._quotas: dict[str, Quota] = {}  # by account

    def of_callers(self, manifest: Manifest) -> dict[tuple[str, str], Bound]:
        """By tenant and key, what both may use."""
        found: dict[tuple[str, str], Bound] = {} if manifest.tenants else {(LOCAL_TENANT, ""): UNBOUND}
        for name, tenant in manifest.tenants.items():
            of_all = self._of(of_tenant(name, tenant.limits, self._observed), tenant.limits)
            for key in tenant.keys:
                of_one = self._of(of_key(name, key.id, key.limits, self._observed), key.limits)
                found[name, key.id] = of_one.beside(of_all)
        return found

    def of_route(self, name: str, limits: Limits) -> Bound:
        """What all may use of it together."""
        return self._of(of_route(name, limits, self._observed), limits)

    def of_model(self, name: str, limits: Limits) -> Bound:
        """What all routes may use of it together."""
        return self._of(of_model(name, limits, self._observed), limits)

    def _of(self, holder: Holder, limits: Limits) -> Bound:
        known = self._quotas.get(holder.account)
        if known is not None:
            known.keep(holder, limits)
        wants_quota = limits.requests_per_minute is not None or limits.concurrency_per_worker is not None
        if wants_quota and known is None:
            known = self._quotas[holder.account] = Quota(self._make_minute, holder, limits)
        allowance = self._make_allowance(holder, limits)
        most_pico = 0 if limits.usd_per_request is None else max(from_usd(limits.usd_per_request), 1)
        quotas = (known,) if wants_quota and known is not None else ()
        return Bound(quotas, allowance, most_pico) if quotas or allowance or most_pico else UNBOUND
