"""Do the language models of a Manifest, and the routes over them, hold together? Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from urllib.parse import quote, urlsplit

from servery.control.places import Places, at
from servery.terms.change import Problem, Served
from servery.terms.manifest import Manifest, Model
from servery.terms.placement import RENTED, lacking, speaks
from servery.terms.routes import Accept, Route

_OF_TOKENS = "usd_per_1m_"


def check_language_model(name: str, model: Model, served: Served | None, places: Places) -> Iterator[Problem]:
    """A language model's price and patterns; of another model, that it isn't priced as one."""
    where = at("models", name)
    declared = {} if model.price is None else {key: getattr(model.price, key) for key in model.price.__struct_fields__}
    for key, usd in declared.items():
        if usd is not None and key.startswith(_OF_TOKENS) != (model.runtime in RENTED):
            message = f"`{key}` does nothing for the runtime `{model.runtime}`"
            fix = "remove it: it is free" if model.runtime == "heuristic" else "write `usd_per_hour`"
            if model.runtime in RENTED:
                fix = "write `usd_per_1m_input` and `usd_per_1m_output`"
            yield places.problem(at(where, "price", key), message, fix)
    if model.runtime in RENTED and served is not None and served.latest.price is None:
        message = f"the price of {model.serves or name!r} is not known, so nothing that it costs could be"
        fix = "add for instance `price: {usd_per_1m_input: 0.15, usd_per_1m_output: 0.6}`; zeros where it is free"
        yield places.problem(where, message, fix)
    for index, url in enumerate([model.endpoint, *(one.url for one in model.endpoints)]):
        here = at(where, "endpoints", index - 1, "url") if index else at(where, "endpoint")
        if url:
            yield from _address(url, here, places)
    for index, canned in enumerate(model.replies):
        try:
            re.compile(canned.pattern)
        except re.error as error:
            here = at(where, "replies", index, "pattern")
            yield places.problem(here, f"this is no regular expression: {error}", "escape what is meant literally")


def _address(url: str, where: str, places: Places) -> Iterator[Problem]:
    """Whether it is one that can be called as it stands, and holds no secret."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname and (parts.port is None or parts.port))
    except ValueError as error:
        yield places.problem(where, f"this is no address: {error}", "write it as https://HOST:PORT/v1")
        return
    if not named:
        yield places.problem(where, "the address names no host, or the port 0", "write it as https://HOST:PORT/v1")
    if "@" in parts.netloc:
        message = "the address holds a name or a password, which would be kept and told as a part of it"
        yield places.problem(where, message, "write it as `credentials: {env: NAME}`")
    for sign in "?#":
        if sign in url:
            message = f"what stands behind the `{sign}` would not be sent"
            yield places.problem(where, message, "leave it out; a secret is written as `credentials: {env: NAME}`")
    if not parts.path.isascii():
        yield places.problem(where, "a path is sent in ASCII", f"write it as {quote(parts.path, safe='/%')}")


def check_language_route(manifest: Manifest, route: Route, where: str, places: Places) -> Iterator[Problem]:
    """Whether all tiers answer in text, or none; and what `complexity` needs."""
    models = {tier.model: manifest.models[tier.model] for tier in route.tiers if tier.model in manifest.models}
    in_text = [name for name, model in models.items() if speaks(model)]
    policy, here = route.policy, at(where, "policy")
    if in_text and len(in_text) < len(models):
        others = ", ".join(f"`{name}`" for name in models if name not in in_text)
        message = f"`{in_text[0]}` answers in text, but {others} in tensors: callers could not use both"
        yield places.problem(at(where, "tiers"), message, "make two routes of them")
    yield from _checks(manifest, route, bool(in_text), where, places)
    for key in ("explore", "hedge", "hold_tokens"):
        if not in_text and getattr(policy, key):
            yield places.problem(at(here, key), f"`{key}` does nothing for models that take tensors", "remove it")
    if policy.explore and len(route.tiers) == 1:
        yield places.problem(
            at(here, "explore"), "there is only one tier to draw from", "declare another one, or remove it"
        )
    if policy.kind != "complexity":
        for key in ("thresholds", "router"):
            if getattr(policy, key):
                message = f"`{key}` does nothing under the policy `{policy.kind}`"
                yield places.problem(at(here, key), message, "write `kind: complexity`, or remove it")
        return
    if models and not in_text:
        message = "`complexity` scores a prompt's text, but these models take tensors"
        yield places.problem(at(here, "kind"), message, "write `kind: cascade`, which goes on by confidence")
    yield from _thresholds(route, here, places)


def _checks(manifest: Manifest, route: Route, in_text: bool, where: str, places: Places) -> Iterator[Problem]:
    """How tiers say whether their own answer is good enough."""
    for index, tier in enumerate(route.tiers):
        here, accept, last = at(where, "tiers", index), tier.accept, index == len(route.tiers) - 1
        yield from _verifier(accept, at(here, "accept"), places)
        if not in_text:
            if accept is not None and accept.check is not None:
                message = f"the check `{accept.check}` looks at text, but this route takes tensors"
                yield places.problem(at(here, "accept", "check"), message, "remove it: rows go on by their confidence")
            continue
        if accept is None:
            if route.policy.kind == "cascade" and not last:
                message = f"the tier {tier.name!r} of a cascade has no `accept`, so no answer would reach the next tier"
                fix = "add for instance `accept: {check: logprob, confidence: 0.8}`"
                yield places.problem(here, message, fix)
            continue
        if accept.check is None:
            message = "nothing says how sure an answer in text is"
            fix = "add `check: logprob`, `margin`, `agreement`, `json_schema` or `verifier`"
            yield places.problem(at(here, "accept"), message, fix)
        model = manifest.models.get(tier.model)
        if accept.check in ("logprob", "margin") and model is not None and "logprobs" in lacking(model):
            message = f"the model {tier.model!r} lacks logprobs, by which this check goes"
            yield places.problem(at(here, "accept", "check"), message, "write another check, such as `agreement`")


def _verifier(accept: Accept | None, here: str, places: Places) -> Iterator[Problem]:
    """Whether a trained check and its file are named together."""
    if accept is None:
        return
    if accept.check == "verifier" and not accept.verifier and not places.wrote(at(here, "verifier")):
        message = "the check `verifier` doesn't say which file it is in"
        yield places.problem(at(here, "check"), message, "add `verifier: NAME.npz`, from `servery verifier train`")
    elif accept.verifier and accept.check != "verifier":
        message = "`verifier` does nothing under another check" if accept.check else "`verifier` does nothing by itself"
        yield places.problem(at(here, "verifier"), message, "write `check: verifier`, or remove it")


def _thresholds(route: Route, here: str, places: Places) -> Iterator[Problem]:
    policy, wanted = route.policy, len(route.tiers) - 1
    if policy.router and wanted != 1:
        message = f"a router tells two models apart, but this route has {wanted + 1} tiers"
        yield places.problem(at(here, "router"), message, "leave two tiers, or `router` out")
    elif len(policy.thresholds) != wanted and (policy.thresholds or not policy.router):
        message = f"{wanted + 1} tiers need {wanted} thresholds, not {len(policy.thresholds)}"
        example = ", ".join(f"{(number + 1) / (wanted + 1):.2g}" for number in range(wanted))
        yield places.problem(at(here, "thresholds"), message, f"write for instance `thresholds: [{example}]`")
    if any(low > high for low, high in pairwise(policy.thresholds)):
        fix = f"write [{', '.join(f'{value:g}' for value in sorted(policy.thresholds))}]"
        yield places.problem(at(here, "thresholds"), "the thresholds don't ascend", fix)


def known_prices(models: Mapping[str, Served]) -> frozenset[str]:
    """The language models whose price is known."""
    return frozenset(name for name, served in models.items() if served.latest.price is not None)
