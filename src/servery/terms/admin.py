"""The part of a Manifest that opens the admin API to other machines, or to programs of this one: by keys, never by default."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from servery.terms.declared import Declared, Name

Role = Literal["viewer", "operator"]


class AdminKey(Declared, frozen=True):
    """One key of the admin API; `servery key new --admin ROLE` prints these lines."""

    id: Annotated[Name, Meta(description="what the audit calls it, as `key:ID`")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key, as 64 hex digits")]
    role: Annotated[Role, Meta(description="`viewer`: may look; `operator`: may also change what is served")] = "viewer"
    expires: Annotated[
        str,
        Meta(pattern=r"^(\d{4}-\d\d-\d\d)?$", description="the day, in UTC, from which on it is refused: `2027-01-31`"),
    ] = ""


class Tls(Declared, frozen=True):
    """The certificate of the admin API. A new one in the same files is used within seconds."""

    cert: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=4_096,
            description="PEM file of the certificate with its chain, relative to the manifest",
        ),
    ]
    key: Annotated[str, Meta(min_length=1, max_length=4_096, description="PEM file of its key, without a passphrase")]
    client_ca: Annotated[
        str, Meta(max_length=4_096, description="PEM file: only callers with a certificate of one of these may connect")
    ] = ""


class Admin(Declared, frozen=True):
    """The [admin API](admin.md) over TCP. Without this part only this machine's user reaches it, over a socket in the data folder."""

    keys: Annotated[tuple[AdminKey, ...], Meta(min_length=1, max_length=1_000)]
    host: Annotated[
        str,
        Meta(min_length=1, max_length=255, description="address to listen on; without `tls` only loopback is allowed"),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port of the admin API; 0 takes a free one")] = 8002
    tls: Tls | None = None
    names: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_.-]+$")], ...],
        Meta(
            max_length=64,
            description="host names that it is asked by; others are refused, so that a web page can't pose as it. Addresses and `localhost` always may",
        ),
    ] = ()
