"""Whose budgets a call counts on: its tenant's, its key's, its route's and its model's."""

from __future__ import annotations

from servery.gateway.budgets import Allowance, Holder, MakeAllowance
from servery.terms.limits import Limits, Spending
from servery.terms.manifest import Manifest


class Allowances:
    """The budgets of all who have some. Owned by the worker, so what is spent outlives Tables."""

    def __init__(self, make: MakeAllowance) -> None:
        self._make = make
        self._made: dict[str, tuple[Holder, Spending, Allowance | None]] = {}  # by account

    def of(self, holder: Holder, spending: Spending) -> Allowance | None:
        """Those of a Holder; None where it has none."""
        known = self._made.get(holder.account)
        if known is None or known[:2] != (holder, spending):
            known = self._made[holder.account] = (holder, spending, self._make(holder, spending))
        return known[2]

    def of_callers(self, manifest: Manifest) -> dict[tuple[str, str], Allowance]:
        """By tenant and key, what both may spend."""
        found: dict[tuple[str, str], Allowance] = {}
        for name, tenant in manifest.tenants.items():
            limits = _spending(tenant.limits)
            of_tenant = self.of(_holder(name, "this tenant's", limits), limits)
            for key in tenant.keys:
                of_key = self.of(_holder(f"key\t{name}\t{key.id}", "this key's", key.budget), key.budget)
                both = of_tenant if of_key is None else of_key.beside(of_tenant)
                if both is not None:
                    found[name, key.id] = both
        return found

    def of_routes(self, manifest: Manifest) -> dict[str, Allowance]:
        """By route."""
        found = {
            name: self.of(_holder(f"route\t{name}", "this route's", route.budget), route.budget)
            for name, route in manifest.routes.items()
        }
        return {name: allowance for name, allowance in found.items() if allowance is not None}

    def of_model(self, name: str, budget: Spending) -> Allowance | None:
        """Where a model's is spent, others are asked."""
        holder = Holder(f"model\t{name}", "this model's", True, budget.mode == "observe")
        return self.of(holder, budget)


def _holder(account: str, told: str, spending: Spending) -> Holder:
    return Holder(account, told, spending.when_spent == "cheaper", spending.mode == "observe")


def _spending(limits: Limits) -> Spending:
    """Of a tenant's limits those that are budgets, so that another limit's change leaves them alone."""
    return Spending(limits.usd_per_day, limits.usd_per_month, limits.tokens_per_minute, limits.when_spent, limits.mode)
