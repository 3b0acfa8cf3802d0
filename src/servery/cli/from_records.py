"""Judged prompts of a data folder: Records of a route with their Feedback, and the prompts that Content holds."""

from __future__ import annotations

import msgspec
import typer
from sqlalchemy.exc import DBAPIError

from servery.cli.audited import audited
from servery.cli.content import opened, sealer_of
from servery.cli.router_options import JudgedOptions
from servery.control.published import SnapshotError, read_snapshot
from servery.gateway.voices import VOICES
from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.learning.examples import Unusable
from servery.learning.prompts import Answered
from servery.learning.recorded import Fact, Found, Wanted, find_facts, with_prompts
from servery.store.contents import AT_ONCE, Contents
from servery.store.ledger import Ledger, WrongLedger
from servery.store.sealing import Sealer, Unreadable
from servery.telemetry.spans import parse_span
from servery.terms.content import Content
from servery.terms.manifest import Manifest
from servery.terms.reasons import Refusal
from servery.terms.residency import may_flow
from servery.terms.text import Form

_FORMS = {form.value: form for form in Form}


def read_recorded(asking: JudgedOptions, act: str) -> tuple[Answered, tuple[Fact, ...], str]:
    """Prompts with what is known of how both tiers answer them, the facts behind that, and in words what was found. Unusable.

    Tiers that aren't named are the first and the last one of the route. The audit calls it `act`.
    """
    folder, now_ns = DataFolder(asking.data), Clock().wall_ns()
    try:
        manifest = read_snapshot(folder.snapshot).manifest
    except SnapshotError as error:
        raise Unusable(str(error)) from None
    wanted = _wanted(asking, manifest)
    found = _found(folder, asking, wanted, now_ns)
    facts = _may_be_used(found.facts, asking, manifest)
    ids = [fact.record_id for fact in facts]
    prompts = prompts_of(folder, act, asking.route, ids, asking.tenant)
    found = msgspec.structs.replace(found, facts=facts)
    answered, known = with_prompts(found, wanted, prompts.get)
    return answered, known, _told(found, known, wanted)


def prompts_of(folder: DataFolder, act: str, route: str, ids: list[bytes], tenant: str = "") -> dict[bytes, str]:
    """What the prompts of these Records say, as far as Content holds them; the reading leaves an entry in the audit."""
    manifest, now_ns = read_snapshot(folder.snapshot).manifest, Clock().wall_ns()
    with opened(folder) as store, audited(folder, act, route) as evidence:
        prompts = _prompts(store, sealer_of(folder), ids, manifest, now_ns)
        evidence.update({"tenant": tenant, "read": len(prompts)})
    return prompts


def _wanted(asking: JudgedOptions, manifest: Manifest) -> Wanted:
    route = manifest.routes.get(asking.route)
    if route is None:
        known = ", ".join(f"`{name}`" for name in manifest.routes) or "none"
        raise typer.BadParameter(f"there is no route {asking.route!r}; there is {known}", param_hint="--route")
    tiers = [tier.name for tier in route.tiers]
    cheap, strong = asking.cheap or tiers[0], asking.strong or tiers[-1]
    for option, tier in (("--cheap", cheap), ("--strong", strong)):
        if tier not in tiers:
            there = ", ".join(f"`{name}`" for name in tiers)
            raise typer.BadParameter(f"the route has no tier {tier!r}; it has {there}", param_hint=option)
    if cheap == strong:
        raise Unusable(f"a router tells two tiers apart, and `{cheap}` is one")
    return Wanted(asking.route, cheap, strong, asking.feedback, asking.right_from)


def _found(folder: DataFolder, asking: JudgedOptions, wanted: Wanted, now_ns: int) -> Found:
    span = parse_span(asking.since)
    if span is None:
        message = f"{asking.since!r} is not a span of time; write for instance 7d, 12w or all"
        raise typer.BadParameter(message, param_hint="--since")
    try:
        ledger = Ledger(folder.ledger)
    except WrongLedger as error:
        raise Unusable(str(error)) from None
    try:
        return find_facts(ledger.read(now_ns - span if span else 0, now_ns + 1, asking.route), wanted)
    except DBAPIError as error:
        raise Unusable(f"{folder.ledger} can't be read: {error.orig}") from None
    finally:
        ledger.close()


def _may_be_used(facts: tuple[Fact, ...], asking: JudgedOptions, manifest: Manifest) -> tuple[Fact, ...]:
    """Those of tenants that are still declared, and of the one that was named."""
    there = set(manifest.tenants) or {fact.tenant for fact in facts}
    return tuple([fact for fact in facts if fact.tenant in there and asking.tenant in ("", fact.tenant)])


def _prompts(store: Contents, sealer: Sealer, ids: list[bytes], manifest: Manifest, now_ns: int) -> dict[bytes, str]:
    """What the prompts say, by Record, as far as Content holds them and the tenant's data may be used where it rests."""
    prompts: dict[bytes, str] = {}
    for start in range(0, len(ids), AT_ONCE):
        for sealed in store.read(ids[start : start + AT_ONCE], now_ns):
            tenant = manifest.tenants.get(sealed.tenant)
            if tenant is not None and not may_flow(tenant.regions, sealed.region):
                continue
            try:
                prompts[sealed.record_id] = _text(sealer.open(sealed))
            except (Unreadable, Refusal, KeyError):
                continue
    return prompts


def _text(content: Content) -> str:
    """What a prompt says to whoever chooses a model by it, by the same reading as when it was asked. Refusal, KeyError."""
    form = _FORMS[content.form]
    return VOICES[form].decode(form, content.asked).text


def _told(found: Found, known: tuple[Fact, ...], wanted: Wanted) -> str:
    left_out = ", ".join(f"{count:,} {why}" for why, count in found.left_out.most_common())
    unkept = len(found.facts) - len(known)
    left_out = "; ".join(
        part for part in (left_out, f"{unkept:,} have no Content that can be read" if unkept else "") if part
    )
    told = f"{len(known):,} of {found.records:,} Records of `{wanted.route}` say how the way that was drawn ended"
    return f"{told} ({left_out})" if left_out else told
