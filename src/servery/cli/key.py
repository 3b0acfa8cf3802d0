"""`servery key`: keys are made here, and only their hashes are ever written down."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import date
from typing import Annotated, Literal

import msgspec
import typer

from servery.terms.declared import Name

KEY_BYTES = 32

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_PLAIN_YAML = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_YAML_WORDS = ("true", "false", "null")


@app.callback()
def keys() -> None:
    """API keys of tenants, and keys of the admin API."""


@app.command()
def new(
    tenant: Annotated[str, typer.Argument(help="The tenant that the key is for.")] = "",
    key_id: Annotated[
        str, typer.Option("--id", help="What the key is called in the manifest, in Records and in the audit.")
    ] = "k1",
    admin: Annotated[
        Literal["viewer", "operator"] | None,
        typer.Option(help="Make a key of the admin API instead: for one who may look, or also change things."),
    ] = None,
    expires: Annotated[str, typer.Option(help="With --admin: the day from which on it is refused.")] = "",
) -> None:
    """Make a key of 256 random bits, print it once, and the lines to paste into the manifest: they hold only its hash."""
    if admin is None and not tenant:
        raise typer.BadParameter("name the tenant; or --admin ROLE for a key of the admin API", param_hint="TENANT")
    if admin is not None and tenant:
        raise typer.BadParameter("a key of the admin API is no tenant's: leave TENANT out", param_hint="TENANT")
    if expires and admin is None:
        raise typer.BadParameter("only a key of the admin API expires by itself", param_hint="--expires")
    _check_day(expires)
    for what, name in (("--id", key_id),) if admin else (("TENANT", tenant), ("--id", key_id)):
        _check_name(what, name)
    key = new_key()
    sent = "`Authorization: Bearer …`" + ("; commands take it from SERVERY_KEY" if admin else " or `x-api-key: …`")
    typer.echo(f"The key, shown only now (send it as {sent}):\n\n  {key}\n")
    typer.echo("The lines for the manifest:\n")
    typer.echo(_admin_lines(key, key_id, admin, expires) if admin else _tenant_lines(key, key_id, tenant))


def _tenant_lines(key: str, key_id: str, tenant: str) -> str:
    return f'tenants:\n  {_yaml(tenant)}:\n    keys:\n      - id: {_yaml(key_id)}\n        sha256: "{hash_of(key)}"'


def _admin_lines(key: str, key_id: str, role: str, expires: str) -> str:
    until = f'\n      expires: "{expires}"' if expires else ""
    return f'admin:\n  keys:\n    - id: {_yaml(key_id)}\n      sha256: "{hash_of(key)}"\n      role: {role}{until}'


def _check_name(what: str, name: str) -> None:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise typer.BadParameter("write 1 to 128 printable characters", param_hint=what) from None
    if name != name.strip():
        raise typer.BadParameter("a name may not begin or end with a space", param_hint=what)


def _check_day(expires: str) -> None:
    try:
        if expires and date.fromisoformat(expires).isoformat() != expires:
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"write a day such as 2027-01-31, not {expires!r}", param_hint="--expires") from None


def new_key() -> str:
    """`sv_` and 43 characters of base64url: 256 bits from the operating system."""
    return "sv_" + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """What the manifest keeps of a key: SHA-256 over all of it, `sv_` included, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def _yaml(name: str) -> str:
    """`name` as a YAML value; in quotes where it could be read as something else."""
    return name if _PLAIN_YAML.fullmatch(name) and name.lower() not in _YAML_WORDS else json.dumps(name)
