"""The `servery` command. A command's module is imported only when that command runs, so that each starts fast."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import msgspec
import typer

from servery import __version__


class Command(msgspec.Struct, frozen=True):
    """A command: its name, where its function (or, for a group, its typer.Typer) is found, and a line of help."""

    name: str
    module: str
    attribute: str
    help: str
    group: bool = False


COMMANDS = (
    Command("init", "servery.cli.init", "init", "Write an example to start from into a folder."),
    Command(
        "demo",
        "servery.cli.demo",
        "demo",
        "Serve and measure three models, or with --llm three language models; prints what routing saves.",
    ),
    Command(
        "check", "servery.cli.manifest", "check", "Say all that is wrong with a manifest, with the line and the fix."
    ),
    Command("up", "servery.cli.serve", "up", "Serve what a manifest declares."),
    Command("plan", "servery.cli.plan", "plan", "Show what apply would do, for callers and for money."),
    Command("apply", "servery.cli.apply", "apply", "Have a running Servery serve what its manifest declares now."),
    Command("status", "servery.cli.status", "status", "What a running Servery serves, and who answers by it."),
    Command("model", "servery.cli.model", "app", "Models: load, unload, and the versions that are held.", group=True),
    Command("history", "servery.cli.history", "history", "What was published, when, by whom and why."),
    Command("audit", "servery.cli.audit", "app", "Who changed what, and whether that was altered since.", group=True),
    Command("rollout", "servery.cli.rollout", "app", "Rollouts: what is being rolled out, and by hand.", group=True),
    Command(
        "experiment",
        "servery.cli.experiment",
        "app",
        "Experiments: arms of a route compared on live traffic.",
        group=True,
    ),
    Command("report", "servery.cli.records", "report", "Shares, latency, dollars and quality, from the Records."),
    Command("drift", "servery.cli.drift", "drift", "Whether what models are asked, and say, has changed."),
    Command(
        "content", "servery.cli.content", "app", "Content: what was asked and answered, where it is kept.", group=True
    ),
    Command("route", "servery.cli.route", "app", "Routes: calibrate a cascade's thresholds.", group=True),
    Command("policy", "servery.cli.policy", "app", "Policies: what another one would have been worth.", group=True),
    Command("router", "servery.cli.router", "app", "Routers: learn which of two models a prompt needs.", group=True),
    Command("verifier", "servery.cli.verifier", "app", "Verifiers: learn which answers in text may stand.", group=True),
    Command(
        "fake-vendor",
        "servery.cli.vendor",
        "fake_vendor",
        "A vendor of language models for trials: made-up answers, ordered faults, its own invoice.",
    ),
    Command("key", "servery.cli.key", "app", "API keys of tenants, and keys of the admin API.", group=True),
    Command("schema", "servery.cli.manifest", "schema", "Print the JSON Schema of the manifest, for editors."),
)


def build(wanted: str) -> typer.Typer:
    """The application with the command `wanted` in full; of the others only the names and the help."""
    app = typer.Typer(
        name="servery",
        help="One serving layer in front of every model a company runs.",
        add_completion=False,
        rich_markup_mode=None,  # importing rich would double the time of a short command
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for command in COMMANDS:
        if command.name != wanted:
            app.command(command.name, help=command.help)(_unused)
            continue
        part: Any = getattr(importlib.import_module(command.module), command.attribute)
        if command.group:
            app.add_typer(part, name=command.name, help=command.help)
        else:
            app.command(command.name)(part)
    return app


def main() -> None:
    """The entry point. What a user can get wrong ends in one line on stderr, never in a traceback."""
    # Names and paths may hold what the terminal can't show.
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    try:
        build(wanted)()
    except BrokenPipeError:  # the reader of our output has gone: `servery schema | head`
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        typer.echo(f"Error: {named}{error.strerror or error}", err=True)
        sys.exit(1)


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"servery {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _unused() -> None:
    """In the place of a command that isn't the one that runs."""
