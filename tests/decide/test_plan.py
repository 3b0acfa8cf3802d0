"""Plan: from what is served to what is declared. Each case is one edit of a manifest that is good, and what must be told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.control.declare import manifest_digest
from servery.control.differences import differences
from servery.control.plan import plan, summary
from servery.control.wishes import intent_of, nothing_to_do
from servery.terms.change import Pinned, Served, Snapshot, Standing, Version
from servery.terms.history import Held, Wish, serves
from servery.terms.manifest import Manifest
from servery.terms.plan import Act, Plan, Step
from servery.terms.reasons import Reason, Refusal
from servery.terms.tensors import Signature, TensorSpec
from servery.terms.text import TokenPrice

GOOD: dict[str, Any] = {
    "servery": 1,
    "models": {
        "small": {
            "runtime": "onnx",
            "artifact": "small.onnx",
            "confidence": {"output": "p"},
            "price": {"usd_per_hour": 0.05},
        },
        "large": {"runtime": "onnx", "artifact": "large.onnx", "price": {"usd_per_hour": 0.5}, "replicas": 2},
    },
    "routes": {
        "digits": {
            "policy": {"kind": "cascade"},
            "slo": {"p95_ms": 50},
            "deadline_ms": 2000,
            "ceiling": {"mean_usd_per_million": 2},
            "tiers": [
                {"name": "cheap", "model": "small", "accept": {"confidence": 0.9}},
                {"name": "premium", "model": "large"},
            ],
        },
    },
    "tenants": {
        "acme": {
            "keys": [{"id": "k1", "sha256": "a" * 64}, {"id": "k2", "sha256": "b" * 64}],
            "limits": {"requests_per_minute": 100, "usd_per_month": 300},
        },
    },
}
ROWS = TensorSpec("x", "FP32", (-1, 64))
LABEL = TensorSpec("label", "INT64", (-1,))


def version(model: str, number: int = 1, digest: str = "", **more: Any) -> Version:
    known = Signature((ROWS,), (LABEL,))
    return Version(
        model, str(number), digest or f"{model}{number}".ljust(64, "0"), f"m/{model}", signature=known, **more
    )


def snapshot(declared: Any, epoch: int = 7, **versions: tuple[Version, ...]) -> Snapshot:
    manifest = msgspec.convert(declared, Manifest)
    models = {name: Served(versions.get(name) or (version(name),)) for name in manifest.models}
    return Snapshot(epoch, manifest, manifest_digest(manifest), models, 2)


def edited(*path: str | int, to: object) -> dict[str, Any]:
    """GOOD with another value at `path`; None removes it."""
    whole: Any = msgspec.json.decode(msgspec.json.encode(GOOD))
    inside: Any = whole
    for step in path[:-1]:
        inside = inside[step]
    if to is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = to
    return whole


def only(found: Plan) -> Step:
    [step] = found.steps
    return step


def test_what_is_served_already_needs_nothing() -> None:
    served = snapshot(GOOD)
    found = plan(served, msgspec.structs.replace(served, epoch=0))
    assert nothing_to_do(found)
    assert found.usd_per_hour == (0.05 * 2 + 0.5 * 2,) * 2


def test_from_nothing_all_is_new() -> None:
    found = plan(None, snapshot(GOOD))
    assert [(step.act, step.where) for step in found.steps] == [
        (Act.ADD, "models.small"),
        (Act.ADD, "models.large"),
        (Act.ADD, "routes.digits"),
        (Act.ADD, "tenants.acme"),
    ]
    assert (found.epoch, found.before) == (0, "")
    assert summary(found)[0] == "add models.small"


CASES: list[tuple[str, tuple[str | int, ...], object, Act, str, str, str]] = [
    # what, path, value, act, difference, for callers, for money
    ("deadline", ("routes", "digits", "deadline_ms"), 500, Act.CHANGE, "routes.digits.deadline_ms 2000 500", "ended after 500 ms, not 2000", ""),
    ("promise", ("routes", "digits", "slo"), {"p99_ms": 9}, Act.CHANGE, "routes.digits.slo.p99_ms  9", "promised of the p95: nothing, not ≤ 50 ms", ""),
    ("ceiling", ("routes", "digits", "ceiling"), None, Act.CHANGE, "routes.digits.ceiling.mean_usd_per_million 2 ", "", "mean $ per million 2 → any"),
    ("threshold", ("routes", "digits", "tiers", 0, "accept", "confidence"), 0.95, Act.CHANGE, "routes.digits.tiers.cheap.accept.confidence 0.9 0.95", "tier cheap: fewer of its answers stand, more rows go on", ""),
    ("tier's model", ("routes", "digits", "tiers", 1, "model"), "small", Act.CHANGE, "routes.digits.tiers.premium.model large small", "tier premium: small answers instead of large", ""),
    ("tier's version", ("routes", "digits", "tiers", 1, "version"), "1", Act.CHANGE, "routes.digits.tiers.premium.version  1", "version 1 answers instead of the highest number", ""),
    ("policy", ("routes", "digits", "policy", "kind"), "fixed", Act.CHANGE, "routes.digits.policy.kind cascade fixed", "another tier than until now may be asked first", ""),
    ("budget of a route", ("routes", "digits", "limits"), {"usd_per_day": 5}, Act.CHANGE, "routes.digits.limits.usd_per_day  5", "", "dollars a day: any → 5"),
    ("limit of a route", ("routes", "digits", "limits"), {"requests_per_minute": 5}, Act.CHANGE, "routes.digits.limits.requests_per_minute  5", "more than 5 requests a minute are refused (429), until now none", ""),
    ("limit of a model", ("models", "small", "limits"), {"concurrency_per_worker": 5}, Act.CHANGE, "models.small.limits.concurrency_per_worker  5", "more than 5 requests at once in a worker are refused", ""),
    ("limit of a key", ("tenants", "acme", "keys", 0, "limits"), {"requests_per_minute": 5}, Act.CHANGE, "tenants.acme.keys.k1.limits.requests_per_minute  5", "key k1: more than 5 requests a minute are refused", ""),
    ("route gone", ("routes", "digits"), None, Act.REMOVE, "routes.digits.deadline_ms 2000 ", "calls of `digits` are refused (404)", "mean $ per million 2 → any"),
    ("price", ("models", "small", "price", "usd_per_hour"), 0.04, Act.CHANGE, "models.small.price.usd_per_hour 0.05 0.04", "", "0.1 → 0.08 $ an hour"),
    ("copies", ("models", "large", "replicas"), 3, Act.CHANGE, "models.large.replicas 2 3", "", "1 → 1.5 $ an hour"),
    ("exposed", ("models", "small", "expose"), True, Act.CHANGE, "models.small.expose false true", "the name `small` appears", ""),
    ("key gone", ("tenants", "acme", "keys", 1), None, Act.CHANGE, "tenants.acme.keys.k2.id k2 ", "key k2 is refused (401)", ""),
    ("key replaced", ("tenants", "acme", "keys", 0, "sha256"), "c" * 64, Act.CHANGE, f"tenants.acme.keys.k1.sha256 {'a' * 64} {'c' * 64}", "the old one is refused", ""),
    ("key's role", ("tenants", "acme", "keys", 0, "role"), "operator", Act.CHANGE, "tenants.acme.keys.k1.role caller operator", "key k1 is that of an operator", ""),
    ("key's budget", ("tenants", "acme", "keys", 0, "limits"), {"usd_per_day": 1}, Act.CHANGE, "tenants.acme.keys.k1.limits.usd_per_day  1", "", "key k1: dollars a day: any → 1"),
    ("limit", ("tenants", "acme", "limits", "requests_per_minute"), 10, Act.CHANGE, "tenants.acme.limits.requests_per_minute 100 10", "more than 10 requests a minute are refused (429)", ""),
    ("budget", ("tenants", "acme", "limits", "usd_per_month"), 500, Act.CHANGE, "tenants.acme.limits.usd_per_month 300 500", "", "dollars a month: 300 → 500"),
    ("regions", ("tenants", "acme", "regions"), ["uae"], Act.CHANGE, "tenants.acme.regions [] [uae]", "may flow to uae, not any", ""),
    ("no tenants", ("tenants", "acme"), None, Act.REMOVE, "tenants.acme.keys.k1.id k1 ", "nobody needs a key any more", "dollars a month: 300 → any"),
    ("live setting", ("server",), {"queue_per_worker": 9}, Act.CHANGE, "server.queue_per_worker 1024 9", "", ""),
    ("fixed setting", ("server",), {"http_port": 9}, Act.RESTART, "server.http_port 8000 9", "only a new start", ""),
    ("region", ("region",), "uae", Act.RESTART, "region local uae", "only a new start", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "act", "difference", "callers", "money"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_one_edit_is_one_step(
    path: tuple[str | int, ...], value: object, act: Act, difference: str, callers: str, money: str
) -> None:
    found = plan(snapshot(GOOD), snapshot(edited(*path, to=value)))
    steps = [step for step in found.steps if step.where.split(".")[0] == str(path[0])]
    assert [step.act for step in steps] == [act]
    told = [f"{one.where} {one.before} {one.after}" for one in steps[0].differences]
    assert difference in told
    assert callers in " | ".join(steps[0].callers)
    assert money in " | ".join(steps[0].money)
    assert found.possible == (act is not Act.RESTART)
    assert summary(found)


def test_the_order_of_tiers_is_told() -> None:
    tiers = GOOD["routes"]["digits"]["tiers"]
    step = only(plan(snapshot(GOOD), snapshot(edited("routes", "digits", "tiers", to=tiers[::-1]))))
    assert step.differences[0].after == "premium, cheap"
    assert "tiers are asked in another order: premium, cheap" in step.callers


def test_the_first_tenant_closes_the_door() -> None:
    open_to_all = edited("tenants", to=None)
    found = plan(snapshot(open_to_all), snapshot(GOOD))
    assert only(found).callers[0] == "whoever has no key is refused (401)"


def test_another_version_is_told_to_whom_it_answers() -> None:
    other = Signature((TensorSpec("x", "FP32", (-1, 65)),), ())
    new = msgspec.structs.replace(version("small", digest="f" * 64), signature=other)
    step = only(plan(snapshot(GOOD), snapshot(GOOD, small=(new,))))
    assert (step.act, step.how) == (Act.REPLACE, "at once")
    assert step.differences[0].where == "models.small version 1"
    assert step.differences[0].after == "ffffffffffff"
    assert step.callers == (
        "route `digits`, tier cheap: version 1 (ffffffffffff) answers instead of 1 (small1000000)",
        "a call has 'x' as FP32 [-1, 65], not FP32 [-1, 64]",
        "an answer has no 'label' any more",
    )


def test_numbers_that_go_are_refused_by_name() -> None:
    declared = edited("models", "small", "expose", to=True)
    both = (version("small", 1), version("small", 2))
    step = only(plan(snapshot(declared, small=both), snapshot(declared, small=both[1:])))
    assert step.callers == ("calls of its version 1 are refused (404)",)


def test_a_version_that_can_no_longer_be_read_is_told() -> None:
    lost = Version("large", "1", "", "large.onnx", problem="large.onnx does not exist")
    served, wanted = snapshot(GOOD), snapshot(GOOD, large=(lost,))
    assert "version 1 can't answer: large.onnx does not exist" in only(plan(served, wanted)).callers
    assert [one.why for one in plan(wanted, wanted).apart] == ["version 1 is unavailable: large.onnx does not exist"]


def test_what_was_unloaded_by_hand_is_loaded_again() -> None:
    served = snapshot(GOOD)
    models = {**served.models, "small": msgspec.structs.replace(served.models["small"], standing=Standing.UNLOADED)}
    found = plan(msgspec.structs.replace(served, models=models), served)
    assert only(found).act is Act.LOAD
    assert only(found).callers == ("it is loaded, and answers again",)
    assert [one.where for one in found.apart] == ["models.small"]
    assert found.usd_per_hour == (1.0, 1.1)


def test_what_sleeps_is_no_step() -> None:
    served = snapshot(GOOD)
    models = {**served.models, "small": msgspec.structs.replace(served.models["small"], standing=Standing.ASLEEP)}
    assert plan(msgspec.structs.replace(served, models=models), served).steps == ()


def test_prices_of_tokens() -> None:
    declared = {"servery": 1, "models": {"gpt": {"runtime": "openai", "endpoint": "https://llm.example"}}}
    one = version("gpt", price=TokenPrice(5_000_000, 15_000_000))
    two = version("gpt", price=TokenPrice(4_000_000, 12_000_000))
    wanted = snapshot({**declared, "region": "local"}, gpt=(two,))
    served = snapshot(declared, gpt=(one,))
    assert plan(served, wanted).steps == ()  # a table of prices that was brought up to date is no step by itself
    dearer = edited_prices(declared)
    found = plan(served, snapshot(dearer, gpt=(two,)))
    assert only(found).money == (
        "5 $ read and 15 $ written (a million tokens) → 4 $ read and 12 $ written (a million tokens)",
    )


def edited_prices(declared: dict[str, Any]) -> dict[str, Any]:
    model = {**declared["models"]["gpt"], "price": {"usd_per_1m_input": 4, "usd_per_1m_output": 12}}
    return {**declared, "models": {"gpt": model}}


HELD = Held("small", "f" * 64, 0, "rollout small", "its error rate was worse by 3 %")


def test_what_is_held_is_refused_until_somebody_says_why() -> None:
    new = version("small", digest="f" * 64)
    found = plan(snapshot(GOOD), snapshot(GOOD, small=(new,)), [HELD, Held("large", "e" * 64, 0, "x", "y")], 4)
    assert found.held == (HELD,)
    assert not found.possible
    with pytest.raises(Refusal, match="version ffffffffffff of 'small' is held: its error rate was worse") as refused:
        intent_of(Wish("root", "why"), found, "f", "s", "id")
    assert refused.value.reason is Reason.CONFLICT
    intent = intent_of(Wish("root", "", retry="the cause was found"), found, "f", "s", "id")
    assert (intent.lifted, intent.why, intent.retry) == ((HELD,), "the cause was found", "the cause was found")


def test_another_plan_than_the_one_that_was_shown_is_not_carried_out() -> None:
    served = snapshot(GOOD)
    shown = plan(served, snapshot(edited("routes", "digits", "deadline_ms", to=500)))
    assert intent_of(Wish("root", "w", mark=shown.mark), shown, "f", "s", "id").steps == summary(shown)
    for other in (
        plan(served, snapshot(edited("routes", "digits", "deadline_ms", to=501))),
        plan(msgspec.structs.replace(served, epoch=8), snapshot(edited("routes", "digits", "deadline_ms", to=500))),
    ):
        with pytest.raises(Refusal, match="another plan than the one that was shown"):
            intent_of(Wish("root", "w", mark=shown.mark), other, "f", "s", "id")


def test_a_file_that_was_trained_anew_is_a_step_though_the_manifest_says_the_same() -> None:
    def with_router(digest: str) -> Snapshot:
        return msgspec.structs.replace(snapshot(GOOD), routers={"digits": Pinned("/r.npz", digest * 64)})

    step = only(plan(with_router("a"), with_router("b")))
    assert (step.where, step.differences[0].where) == ("routes.digits", "routes.digits.policy.router")
    assert step.callers == ("a file that was trained anew decides which tier answers",)
    assert serves(with_router("a")) != serves(with_router("b"))
    assert plan(with_router("a"), with_router("a")).steps == ()


PLACES: list[tuple[str | int, ...]] = [case[1] for case in CASES if case[4] != ""]
VALUES = {case[1]: case[2] for case in CASES}


@settings(deadline=None)
@given(st.sets(st.sampled_from([path for path in PLACES if VALUES[path] is not None and path[0] != "server"])))
def test_many_edits_are_all_told_and_told_backwards_too(paths: set[tuple[str | int, ...]]) -> None:
    whole: Any = msgspec.json.decode(msgspec.json.encode(GOOD))
    for path in sorted(paths, key=str):
        inside: Any = whole
        for step in path[:-1]:
            inside = inside[step]
        inside[path[-1]] = VALUES[path]
    old, new = msgspec.convert(GOOD, Manifest), msgspec.convert(whole, Manifest)
    there = {(one.where, one.before, one.after) for one in differences("", old, new)}
    back = {(one.where, one.after, one.before) for one in differences("", new, old)}
    assert there == back
    assert (manifest_digest(old) == manifest_digest(new)) == (not there)
    told = {
        (one.where, one.before, one.after)
        for step in plan(snapshot(GOOD), snapshot(whole)).steps
        for one in step.differences
    }
    assert told == there


def test_a_part_without_a_word_in_it_is_a_difference_too() -> None:
    old, new = (
        msgspec.convert(edited("routes", "digits", "ceiling", to=None), Manifest),
        msgspec.convert(edited("routes", "digits", "ceiling", to={}), Manifest),
    )
    assert manifest_digest(old) != manifest_digest(new)
    assert [(one.where, one.before, one.after) for one in differences("", old, new)] == [
        ("routes.digits.ceiling", "", "{}")
    ]


def test_long_values_are_cut_and_odd_names_are_quoted() -> None:
    declared = edited("models", "small", "artifact", to="x" * 500)
    declared["models"]["a.b c"] = {"runtime": "onnx", "artifact": "y"}
    found = plan(snapshot(GOOD), snapshot(declared))
    wheres = [step.where for step in found.steps]
    assert 'models["a.b c"]' in wheres
    assert all(len(one.after) <= 120 for step in found.steps for one in step.differences)
