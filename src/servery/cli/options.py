"""Commands whose options are fields of a value, where they are too many for a function's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import msgspec

Options = TypeVar("Options", bound=msgspec.Struct)


def command(kind: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a function of a `kind` into one that typer takes: each field of it, annotated as typer wants, is an option."""

    def take(act: Callable[[Options], None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            act(kind(**given))

        hints = get_type_hints(kind, include_extras=True)
        run.__doc__ = act.__doc__
        run.__name__ = act.__name__
        run.__annotations__ = hints
        vars(run)["__signature__"] = inspect.Signature(
            [_parameter(field, hints) for field in msgspec.structs.fields(kind)]
        )
        return run

    return take


def _parameter(field: msgspec.structs.FieldInfo, hints: dict[str, Any]) -> inspect.Parameter:
    default: Any = inspect.Parameter.empty if field.required else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
