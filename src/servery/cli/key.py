"""`servery key`: keys are made here, and only their hashes are ever written down."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Annotated

import msgspec
import typer

from servery.terms.declared import Name

KEY_BYTES = 32

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_PLAIN_YAML = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_YAML_WORDS = ("true", "false", "null")


@app.callback()
def keys() -> None:
    """API keys of tenants."""


@app.command()
def new(
    tenant: Annotated[str, typer.Argument(help="The tenant that the key is for.")],
    key_id: Annotated[str, typer.Option("--id", help="What the key is called in the manifest and in Records.")] = "k1",
) -> None:
    """Make a key of 256 random bits, print it once, and the lines to paste into the manifest: they hold only its hash."""
    for what, name in (("TENANT", tenant), ("--id", key_id)):
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError:
            raise typer.BadParameter("write 1 to 128 printable characters", param_hint=what) from None
        if name != name.strip():
            raise typer.BadParameter("a name may not begin or end with a space", param_hint=what)
    key = new_key()
    typer.echo(f"The key, shown only now (send it as `Authorization: Bearer …` or `x-api-key: …`):\n\n  {key}\n")
    typer.echo("The lines for the manifest:\n")
    typer.echo(
        f'tenants:\n  {_yaml(tenant)}:\n    keys:\n      - id: {_yaml(key_id)}\n        sha256: "{hash_of(key)}"'
    )


def new_key() -> str:
    """`sv_` and 43 characters of base64url: 256 bits from the operating system."""
    return "sv_" + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """What the manifest keeps of a key: SHA-256 over all of it, `sv_` included, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def _yaml(name: str) -> str:
    """`name` as a YAML value; in quotes where it could be read as something else."""
    return name if _PLAIN_YAML.fullmatch(name) and name.lower() not in _YAML_WORDS else json.dumps(name)
