"""Does what is declared of Content hold together? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from servery.control.places import Places, at, did_you_mean
from servery.terms.change import Problem
from servery.terms.content import ContentPolicy
from servery.terms.manifest import Manifest


def check_content(manifest: Manifest, places: Places) -> Iterator[Problem]:
    """Policies that name nothing that is there, or that nobody falls under. Pure."""
    if manifest.content is not None and manifest.tenants:
        tenant = next(iter(manifest.tenants))
        message = "it is for a Servery without tenants, and does nothing where tenants are declared"
        yield places.problem("content", message, f"move it to {at('tenants', tenant, 'content')}, or remove it")
    for where, policy in policies_of(manifest):
        for index, name in enumerate(policy.routes):
            if name in manifest.routes or name in manifest.models:
                continue
            if places.wrote(at("routes", name)) or places.wrote(at("models", name)):
                continue  # a broken one, which has a problem of its own
            guess = did_you_mean(name, [*manifest.routes, *manifest.models])
            fix = (
                f"did you mean `{guess}`?" if guess else "write the name of a route, or remove `routes` for all of them"
            )
            yield places.problem(at(where, "routes", index), f"there is no route or model {name!r}", fix)


def policies_of(manifest: Manifest) -> Iterator[tuple[str, ContentPolicy]]:
    """Where each policy is declared, and what it says."""
    if manifest.content is not None:
        yield "content", manifest.content
    for name, tenant in manifest.tenants.items():
        if tenant.content is not None:
            yield at("tenants", name, "content"), tenant.content
