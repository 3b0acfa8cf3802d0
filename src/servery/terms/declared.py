"""What every part of a Manifest is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="a name",
    ),
]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a Manifest: immutable, and an unknown key is an error."""


class Credentials(Declared, frozen=True):
    """Where a secret is found. It is never written here, and never kept."""

    env: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128, description="the environment variable that holds it"),
    ]
