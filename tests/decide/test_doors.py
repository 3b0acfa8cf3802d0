"""The admin API's door: what a manifest may declare, and whom the gate takes for whom."""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate as validate_openapi

from servery.control.declare import declare
from servery.control.validate import validate
from servery.gateway.tallies import Tally
from servery.host.clock import Clock
from servery.identity.admins import AdminKeys
from servery.terms.admin import Admin, AdminKey
from servery.terms.reasons import Reason, Refusal
from servery.web.admin import _refused
from servery.web.gate import MOST_FAILED, ByKey, Failures, misled
from servery.web.openapi import describe
from servery.web.operations import OPERATIONS

A, B = "a" * 64, "b" * 64
KEY = f'{{id: ops, sha256: "{A}"}}'


def problems(folder: Path, admin: str, more: str = "") -> list[str]:
    """Each as `line: where: message; fix`."""
    path = folder / "servery.yaml"
    path.write_text(f"servery: 1\nadmin: {{{admin}}}\n{more}")
    found = declare(path)
    both = (*found.problems, *(validate(found.sound, {}, found.places) if found.sound is not None else ()))
    return [f"{one.line}: {one.where}: {one.message}; {one.fix}" for one in both]


@pytest.mark.parametrize(
    "admin",
    [
        f"keys: [{KEY}]",
        f'keys: [{KEY}, {{id: b, sha256: "{B}", role: operator, expires: 2027-01-31}}], port: 9000',
        f"keys: [{KEY}], host: '::1'",
        f"keys: [{KEY}], host: 0.0.0.0, tls: {{cert: c.pem, key: k.pem}}, names: [servery.example]",
    ],
)
def test_what_holds(tmp_path: Path, admin: str) -> None:
    assert problems(tmp_path, admin) == []


TENANT = f'tenants: {{acme: {{keys: [{{id: k1, sha256: "{A}"}}]}}}}'


@pytest.mark.parametrize(
    ("admin", "more", "where", "said", "fix"),
    [
        ("port: 8002", "", "admin", "'keys' is missing", "add `keys:`"),
        ("keys: []", "", "admin.keys", "has 0 values", "write"),
        (f"keys: [{KEY}], host: 0.0.0.0", "", "admin.host", "in clear", "tls: {cert: PATH, key: PATH}"),
        (f"keys: [{KEY}], host: servery.example", "", "admin.host", "in clear", "host: 127.0.0.1"),
        (f'keys: [{KEY}, {{id: ops, sha256: "{B}"}}]', "", "admin.keys[1].id", "two keys", "its own id"),
        (
            f'keys: [{KEY}, {{id: b, sha256: "{A}"}}]',
            "",
            "admin.keys[1].sha256",
            "admin.keys[0]",
            "--admin viewer --id b",
        ),
        (f"keys: [{KEY}]", TENANT, "admin.keys[0].sha256", "tenants.acme.keys[0]", "--admin viewer --id ops"),
        (f'keys: [{{id: b, sha256: "{A}", expires: 2027-02-30}}]', "", "admin.keys[0].expires", "no day", "2027-01-31"),
        (f'keys: [{{id: b, sha256: "{A}", expires: soon}}]', "", "admin.keys[0].expires", "soon", ""),
        (f'keys: [{{id: b, sha256: "{A}", role: operater}}]', "", "admin.keys[0].role", "operater", "`operator`"),
        (f"keys: [{KEY}], port: 8000", "", "admin.port", "server.http_port", "its own port"),
        (f"keys: [{KEY}], hosts: x", "", "admin.hosts", "unknown key", "`host`"),
    ],
)
def test_what_does_not_hold_is_told_with_what_to_write(
    tmp_path: Path, admin: str, more: str, where: str, said: str, fix: str
) -> None:
    [problem] = problems(tmp_path, admin, more)
    line, found, told = problem.split(": ", 2)
    assert (line, found) == ("2", where)
    assert said in told.partition("; ")[0]
    assert fix in told


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4, unique=True), st.binary(max_size=8))
def test_a_key_is_its_own_and_no_other(keys: list[bytes], stranger: bytes) -> None:
    found = AdminKeys([AdminKey(f"k{at}", digest(key)) for at, key in enumerate(keys)])
    for at, key in enumerate(keys):
        owner = found.find(key)
        assert owner is not None
        assert (owner.id, owner.role) == (f"k{at}", "viewer")
    assert stranger in keys or found.find(stranger) is None
    assert found.find(digest(keys[0]).encode()) is None


def test_a_key_ends_when_its_day_begins_in_utc() -> None:
    found = AdminKeys([AdminKey("a", digest(b"a"), expires="2027-01-31")]).find(b"a")
    assert found is not None
    day = datetime.datetime(2027, 1, 31, tzinfo=datetime.UTC)
    assert found.until_ns == int(day.timestamp()) * 10**9


ADMIN = Admin((AdminKey("ops", digest(b"right"), "operator"),), names=("Servery.example",))


@pytest.mark.parametrize(
    ("headers", "ours"),
    [
        ({b"host": b"127.0.0.1:8002"}, True),
        ({b"host": b"[::1]:8002"}, True),
        ({b"host": b"10.1.2.3"}, True),
        ({b"host": b"localhost:1"}, True),
        ({b"host": b"SERVERY.example.:8002"}, True),
        ({b"host": b"evil.example"}, False),
        ({b"host": b"servery.example.evil.example"}, False),
        ({b"host": b"127.0.0.1.nip.io:8002"}, False),
        ({b"host": b"x@localhost"}, True),
        ({b"host": b""}, False),
        ({}, False),
        ({b"host": b"[::1"}, False),
        ({b"host": b"localhost:8002", b"origin": b"http://localhost:8002"}, True),
        ({b"host": b"localhost:8002", b"origin": b"http://localhost:8000"}, False),
        ({b"host": b"localhost:8002", b"origin": b"null"}, False),
        ({b"host": b"localhost:8002", b"origin": b"http://["}, False),
        ({b"host": b"localhost:8002", b"sec-fetch-site": b"same-origin"}, True),
        ({b"host": b"localhost:8002", b"sec-fetch-site": b"cross-site"}, False),
    ],
)
def test_only_what_is_asked_by_our_name_and_from_no_other_page_is_ours(headers: dict[bytes, bytes], ours: bool) -> None:
    assert (misled(headers, ADMIN) == "") is ours


@given(
    st.dictionaries(st.sampled_from([b"host", b"origin", b"sec-fetch-site", b"authorization"]), st.binary(max_size=60))
)
def test_whatever_is_sent_is_a_refusal_and_never_an_error(headers: dict[bytes, bytes]) -> None:
    gate = ByKey(lambda: ADMIN, Clock(), Tally("t", "t"))
    with pytest.raises(Refusal) as told:
        gate({"headers": list(headers.items()), "client": ("127.0.0.1", 1)})
    assert told.value.reason in (Reason.UNAUTHENTICATED, Reason.NOT_PERMITTED)


def asked(gate: ByKey, key: bytes, peer: str = "10.0.0.1") -> Any:
    return gate({"headers": [(b"host", b"localhost"), (b"authorization", b"Bearer " + key)], "client": (peer, 1)})


def test_the_gate_takes_the_keys_that_are_declared_now() -> None:
    now = [ADMIN]
    gate = ByKey(lambda: now[0], Clock(), Tally("t", "t"))
    assert (asked(gate, b"right").who, asked(gate, b"right").role) == ("key:ops", "operator")
    now[0] = msgspec.structs.replace(ADMIN, keys=(AdminKey("new", digest(b"other")),))
    with pytest.raises(Refusal, match="no key of the admin API"):
        asked(gate, b"right")
    assert asked(gate, b"other").role == "viewer"


def test_who_fails_too_often_waits_while_others_and_valid_keys_pass() -> None:
    gate = ByKey(lambda: ADMIN, Clock(), Tally("t", "t"))
    reasons: list[Reason] = []
    for _ in range(MOST_FAILED + 5):
        with pytest.raises(Refusal) as told:
            asked(gate, b"wrong")
        reasons.append(told.value.reason)
    assert reasons == [Reason.UNAUTHENTICATED] * MOST_FAILED + [Reason.RATE_LIMITED] * 5
    assert asked(gate, b"right").who == "key:ops"
    with pytest.raises(Refusal) as told:
        asked(gate, b"wrong", "10.0.0.2")
    assert told.value.reason is Reason.UNAUTHENTICATED


def test_failures_are_counted_by_network_and_within_bounds() -> None:
    failures = Failures()
    for number in range(MOST_FAILED):
        assert failures.take(f"2001:db8::{number:x}", 10**12) == 0
    assert failures.take("2001:db8::ffff", 10**12) > 0
    assert failures.take("2001:db8:0:1::1", 10**12) == 0
    for number in range(5000):
        failures.take(f"10.0.{number // 250}.{number % 250}", 10**12)
    assert len(failures._minutes) <= 1024
    assert failures.take("", 10**12) == failures.take("a name", 10**12) == 0


def test_the_description_is_openapi_and_names_every_operation() -> None:
    document: dict[str, Any] = msgspec.json.decode(describe(OPERATIONS))
    validate_openapi(document)
    described = {
        one["operationId"]: one["x-servery-role"] for path in document["paths"].values() for one in path.values()
    }
    assert described == {one.name: one.role for one in OPERATIONS} | {"openapi": "viewer"}


@pytest.mark.parametrize(("wait_s", "told"), [(0.001, "1"), (0.4, "1"), (1.2, "2"), (None, "1")])
def test_whoever_has_to_wait_is_never_told_to_wait_none(wait_s: float | None, told: str) -> None:
    assert _refused(Refusal(Reason.RATE_LIMITED, "wait", wait_s)).headers["retry-after"] == told
