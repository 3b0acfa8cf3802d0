"""`servery check` and `servery schema`: what a manifest says, and what it may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from servery.control.apply import Checked
from servery.terms.change import Problem
from servery.terms.manifest import Manifest


class CheckedModel(msgspec.Struct, frozen=True):
    """A Version of a Model, of a manifest that was found good."""

    name: str
    number: str
    labels: tuple[str, ...]
    runtime: str
    version: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class CheckedRoute(msgspec.Struct, frozen=True):
    """A Route of a manifest that was found good; tiers as "name=model"."""

    name: str
    policy: str
    tiers: tuple[str, ...]


class CheckReport(msgspec.Struct, frozen=True):
    """What `servery check -o json` prints."""

    file: str
    ok: bool
    digest: str
    problems: tuple[Problem, ...]
    models: tuple[CheckedModel, ...] = ()
    routes: tuple[CheckedRoute, ...] = ()
    tenants: tuple[str, ...] = ()
    admin: str = ""  # where the admin API is open, and who has a key of it


def check(
    file: Annotated[Path, typer.Argument(help="The manifest, for instance servery.yaml.")],
    output: Annotated[
        Literal["text", "json"], typer.Option("-o", "--output", help="How to print what was found.")
    ] = "text",
) -> None:
    """Say all that is wrong with a manifest at once: file, line, column, what to write instead. Exit 1 if anything is.

    The artifacts' signatures are read too, so it finds tiers whose inputs don't fit each other before anything runs.
    """
    from servery.control.apply import check as check_file  # noqa: PLC0415 (`servery schema` needs none of it)

    checked = check_file(file)
    if output == "json":
        typer.echo(msgspec.json.format(msgspec.json.encode(_report(file, checked)), indent=2))
    elif checked.problems:
        for problem in checked.problems:
            typer.echo(str(problem))
        count = len(checked.problems)
        typer.echo(f"{count} problem{'s' if count > 1 else ''}.", err=True)
    else:
        _summarise(_report(file, checked))
    if checked.problems:
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON Schema of the manifest. Editors use it to complete keys and to mark mistakes."""
    typer.echo(msgspec.json.format(msgspec.json.encode(manifest_schema()), indent=2))


def manifest_schema() -> Any:
    """JSON Schema, draft 2020-12."""
    _, parts = msgspec.json.schema_components([Manifest], ref_template="#/$defs/{name}")
    root: Any = parts.pop("Manifest")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Servery manifest",
        **{key: value for key, value in root.items() if key != "title"},
        "$defs": parts,
    }


def _report(file: Path, checked: Checked) -> CheckReport:
    found: Any = {"file": str(file), "ok": not checked.problems, "digest": checked.digest, "problems": checked.problems}
    if (manifest := checked.manifest) is None:
        return CheckReport(**found)
    models = tuple(
        CheckedModel(
            version.model,
            version.number,
            tuple(label for label, number in served.labels.items() if number == version.number),
            manifest.models[version.model].runtime,
            version.digest,
            tuple(spec.name for spec in version.signature.inputs) if version.signature else (),
            tuple(spec.name for spec in version.signature.outputs) if version.signature else (),
        )
        for served in checked.models.values()
        for version in served.versions
    )
    routes = tuple(
        CheckedRoute(name, route.policy.kind, tuple(f"{tier.name}={tier.model}" for tier in route.tiers))
        for name, route in manifest.routes.items()
    )
    return CheckReport(**found, models=models, routes=routes, tenants=tuple(manifest.tenants), admin=_admin(manifest))


def _admin(manifest: Manifest) -> str:
    if (admin := manifest.admin) is None:
        return ""
    keys = [f"{key.id} ({key.role}{f', until {key.expires}' if key.expires else ''})" for key in admin.keys]
    return f"{admin.host}:{admin.port}{'' if admin.tls is None else ' with TLS'}  {', '.join(keys)}"


def _summarise(report: CheckReport) -> None:
    typer.echo(f"{report.file}: good (digest {report.digest[:12]})")
    for model in report.models:
        tensors = f"{', '.join(model.inputs)} → {', '.join(model.outputs)}"
        number = ", ".join((model.number, *model.labels))
        typer.echo(f"  model   {model.name}  {model.runtime}  version {number} ({model.version[:12]})  {tensors}")
    for route in report.routes:
        typer.echo(f"  route   {route.name}  {route.policy}  {', '.join(route.tiers)}")
    for tenant in report.tenants:
        typer.echo(f"  tenant  {tenant}")
    if not report.tenants:
        typer.echo("  no tenants: open to this machine only")
    if report.admin:
        typer.echo(f"  admin   {report.admin}")
