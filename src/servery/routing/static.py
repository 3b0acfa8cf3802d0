"""The tier that a `static` policy chooses for a Request, by one thing that is said about it."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from servery.terms.request import Scalar
from servery.terms.routes import Policy


class By(enum.Enum):
    """What chooses."""

    SUBSCRIPTION = "subscription"
    HEADER = "header"
    PARAMETER = "parameter"


class Pick(msgspec.Struct, frozen=True):
    """A step, and why: `static:subscription=gold`. Only words of the manifest, nothing that a caller wrote."""

    step: int
    why: str


class Static(msgspec.Struct, frozen=True):
    """A `static` policy as the decision sees it. `name` is that of the header (in small letters) or parameter."""

    by: By
    name: str
    picks: dict[str, Pick]
    default: Pick


def compiled(policy: Policy, steps: Mapping[str, int]) -> Static:
    """The decision of a sound `static` policy; `steps` are the tiers by name, in their order."""
    assert policy.by is not None, "validate has seen to it"
    by = By(policy.by)
    name = policy.name.lower() if by is By.HEADER else policy.name
    source = f"static:{by.value}" + (f":{name}" if name else "")
    picks = {value: Pick(steps[tier], f"{source}={value}") for value, tier in policy.choose.items()}
    default = 0 if policy.default is None else steps[policy.default]
    return Static(by, name, picks, Pick(default, f"{source}:default"))


def pick(static: Static, said: Scalar | None) -> Pick:
    """The step for what is said: true and false as JSON writes them, numbers in digits; the default for all else."""
    if said is None:
        return static.default
    if type(said) is not str:
        said = str(said).lower() if isinstance(said, bool) else str(said)
    return static.picks.get(said, static.default)
