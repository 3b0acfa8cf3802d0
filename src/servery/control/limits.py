"""Do limits do what they say, and can they be counted where they are to be? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, urlsplit

import msgspec

from servery.control.language import known_prices
from servery.control.places import Places, at
from servery.terms.change import Problem, Served
from servery.terms.limits import Counters, Limits
from servery.terms.manifest import Manifest, Model
from servery.terms.placement import speaks

_OF_TEXT = ("tokens_per_minute", "usd_per_request")
_OF_MONEY = ("usd_per_request", "usd_per_day", "usd_per_month")
_HOW = ("when_spent", "mode")
_DEFAULTS = Limits()


def check_limits(manifest: Manifest, models: Mapping[str, Served], places: Places) -> Iterator[Problem]:
    """Limits that would do nothing, and a place to count that can't be."""
    priced = known_prices(models)
    for name, model in manifest.models.items():
        where = at("models", name, "limits")
        yield from _no_limit(model.limits, where, places)
        yield from _of_model(name, model, name in priced, where, places)
    for name, route in manifest.routes.items():
        where = at("routes", name, "limits")
        yield from _no_limit(route.limits, where, places)
        declared = [manifest.models[tier.model] for tier in route.tiers if tier.model in manifest.models]
        if declared and not speaks(declared[0]):
            yield from _of_tensors(route.limits, where, places)
            if route.limits.when_spent == "cheaper":
                message = "`cheaper` does nothing for models that take tensors: what is over a limit is refused"
                yield places.problem(at(where, "when_spent"), message, "remove it")
    for name, tenant in manifest.tenants.items():
        yield from _no_limit(tenant.limits, at("tenants", name, "limits"), places)
        for index, key in enumerate(tenant.keys):
            yield from _no_limit(key.limits, at("tenants", name, "keys", index, "limits"), places)
    yield from _counters(manifest.counters, places)


def _written(limits: Limits) -> list[str]:
    keys = msgspec.structs.fields(Limits)
    return [key.name for key in keys if getattr(limits, key.name) != getattr(_DEFAULTS, key.name)]


def _no_limit(limits: Limits, where: str, places: Places) -> Iterator[Problem]:
    written = _written(limits)
    for key in written:
        if key in _HOW and not set(written) - set(_HOW):
            yield places.problem(at(where, key), f"`{key}` does nothing without a limit", "add one, or remove it")


def _of_model(name: str, model: Model, priced: bool, where: str, places: Places) -> Iterator[Problem]:
    written = _written(model.limits)
    if not speaks(model):
        yield from _of_tensors(model.limits, where, places)
    if "when_spent" in written:
        message = "`when_spent` does nothing here: where a model is over its limits, other tiers are always asked"
        yield places.problem(at(where, "when_spent"), message, "remove it")
    free = model.runtime == "heuristic" or not (speaks(model) or model.price is not None or priced)
    for key in written:
        if key in _OF_MONEY and free and (speaks(model) or key not in _OF_TEXT):
            fix = "remove it" if speaks(model) else "add for instance `price: {usd_per_hour: 0.05}` to it"
            yield places.problem(at(where, key), f"`{key}` does nothing: {name!r} costs nothing", fix)


def _of_tensors(limits: Limits, where: str, places: Places) -> Iterator[Problem]:
    for key in _written(limits):
        if key in _OF_TEXT:
            yield places.problem(at(where, key), f"`{key}` does nothing for models that take tensors", "remove it")


def _counters(counters: Counters, places: Places) -> Iterator[Problem]:
    if not counters.redis:
        for key in ("username", "credentials", "prefix"):
            if getattr(counters, key) != getattr(Counters(), key):
                message = f"`{key}` does nothing where counters are kept in files"
                yield places.problem(at("counters", key), message, "add `redis: redis://HOST:6379/0`, or remove it")
        return
    url, where = urlsplit(counters.redis), at("counters", "redis")
    if "@" in url.netloc or any(key != "db" for key, _ in parse_qsl(url.query, keep_blank_values=True)):
        message = "the address holds more than where the Redis is, and would be kept and told as a whole"
        yield places.problem(where, message, "write `username: NAME` and `credentials: {env: NAME}` beside it")
    elif not _leads_somewhere(counters.redis):
        message = "this is no address of a Redis"
        yield places.problem(
            where, message, "write `redis://HOST:6379/0`, `rediss://…` for TLS, or `unix:///PATH?db=0`"
        )


def _leads_somewhere(address: str) -> bool:
    url = urlsplit(address)
    try:
        port = url.port
    except ValueError:
        return False
    numbers = [value for _, value in parse_qsl(url.query, keep_blank_values=True)]
    if url.scheme == "unix":
        return bool(url.path.strip("/")) and not url.netloc and all(number.isdigit() for number in numbers)
    database = url.path.strip("/")
    return bool(url.hostname) and port != 0 and not url.query and (not database or database.isdigit())
