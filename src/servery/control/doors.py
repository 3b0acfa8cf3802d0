"""Validate the admin API's door: whose keys open it, and that none crosses a network in clear. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from servery.control.places import Places, at
from servery.terms.admin import Admin, AdminKey
from servery.terms.change import Problem
from servery.terms.manifest import Manifest
from servery.terms.server import on_loopback


def check_admin(manifest: Manifest, places: Places) -> Iterator[Problem]:
    """All that is wrong with `admin`."""
    admin = manifest.admin
    if admin is None:
        return
    owners = {
        key.sha256: at("tenants", name, "keys", index)
        for name, tenant in manifest.tenants.items()
        for index, key in enumerate(tenant.keys)
    }
    ids: set[str] = set()
    for index, key in enumerate(admin.keys):
        where = at("admin", "keys", index)
        yield from _key(key, where, ids, owners, places)
        ids.add(key.id)
        owners.setdefault(key.sha256, where)
    if admin.tls is None and not places.wrote("admin.tls") and not on_loopback(admin.host):
        message = f"{admin.host!r} can be reached from other machines, and keys would cross the network in clear"
        fix = "add `tls: {cert: PATH, key: PATH}`, or write `host: 127.0.0.1` and put a proxy that ends TLS before it"
        yield places.problem(at("admin", "host"), message, fix)
    yield from _port(manifest, admin, places)


def _key(key: AdminKey, where: str, ids: set[str], owners: dict[str, str], places: Places) -> Iterator[Problem]:
    if key.id in ids:
        message = f"two keys of the admin API are called {key.id!r}"
        yield places.problem(at(where, "id"), message, "give each key its own id: the audit names it")
    if (owner := owners.get(key.sha256, where)) != where:
        message = f"this is the same key as {owner}: who has one must not have the other by it"
        yield places.problem(
            at(where, "sha256"), message, f"make another with `servery key new --admin {key.role} --id {key.id}`"
        )
    try:
        if key.expires:
            date.fromisoformat(key.expires)
    except ValueError:
        yield places.problem(at(where, "expires"), f"there is no day {key.expires}", "write one such as 2027-01-31")


def _port(manifest: Manifest, admin: Admin, places: Places) -> Iterator[Problem]:
    server = manifest.server
    taken = {server.http_port: "server.http_port", server.grpc_port: "server.grpc_port"}
    if admin.port and (other := taken.get(admin.port)):
        fix = "give the admin API its own port: what callers reach and what operators reach stay apart"
        yield places.problem(at("admin", "port"), f"{admin.port} is {other} already", fix)
