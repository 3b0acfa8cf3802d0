"""How a new Version of a Model replaces the old one: as the Manifest declares it, and while it happens.

Descriptions here become the JSON Schema and docs/manifest.md.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from servery.terms.declared import Declared, Fraction, Positive


class Unit(Declared, frozen=True):
    """Who keeps its arm: all requests of one unit are answered by the same Version. One of both is named."""

    header: Annotated[str, Meta(max_length=128, description="the header (over gRPC: metadata) that names the unit")] = (
        ""
    )
    parameter: Annotated[
        str, Meta(max_length=128, description="the parameter, or field of a prompt, that names it, such as `user`")
    ] = ""


class Guard(Declared, frozen=True):
    """A harm that a new Version may not do. What is compared are its Attempts with those of the old Version."""

    metric: Annotated[
        Literal["errors", "latency", "cost", "feedback"],
        Meta(
            description="`errors`: the share of calls without an answer; `latency`: a quantile of the time of a call; `cost`: dollars a row; `feedback`: a value that callers tell later"
        ),
    ]
    margin: Annotated[
        Positive,
        Meta(
            description="the harm that is tolerated: a difference of shares or values, for `latency` and `cost` a part of the old one's: 0.1 is 10 %"
        ),
    ]
    quantile: Annotated[float, Meta(gt=0, lt=1, description="`latency`: which")] = 0.95
    most_ms: Annotated[Positive, Meta(description="`latency`: what the new one's may not exceed, whatever the old one's")] | None = None  # fmt: skip
    most_usd: (
        Annotated[
            Positive,
            Meta(description="`cost`: what a row costs at most; dearer ones count as this much. Needed by `cost`"),
        ]
        | None
    ) = None
    name: Annotated[str, Meta(max_length=128, description="`feedback`: its name")] = ""
    better: Annotated[
        Literal["higher", "lower", "equal"],
        Meta(
            description="`feedback`: whether a higher or a lower value is the better one; `equal`: 1 where it is what the model predicted, else 0"
        ),
    ] = "higher"
    bounds: Annotated[tuple[float, float], Meta(description="`feedback`: the smallest and the largest value")] = (0.0, 1.0)  # fmt: skip
    within_s: Annotated[
        int,
        Meta(
            ge=0,
            description="`feedback`: only what is told within this time counts, and only of calls that are as old; default: all that has been told",
        ),
    ] = 0


class RolloutStep(Declared, frozen=True):
    """A share of the units, held until every guard has passed."""

    share: Annotated[float, Meta(gt=0, lt=1, description="of the units, that the new Version answers")]
    min_requests: Annotated[int, Meta(ge=0, description="calls of the new Version before the next step")] = 100
    bake_s: Annotated[float, Meta(ge=0, le=2_592_000, description="how long the step lasts at least")] = 60
    max_duration_s: Annotated[
        float, Meta(gt=0, le=31_536_000, description="how long it waits for every guard to pass")
    ] = 3600


class RolloutPolicy(Declared, frozen=True):
    """How new Versions of a Model are brought out."""

    kind: Annotated[
        Literal["at-once", "canary"],
        Meta(
            description="`at-once`: in one swap; `canary`: to a growing share, judged by guards, and rolled back by itself where one is broken"
        ),
    ] = "at-once"
    unit: Annotated[Unit | None, Meta(description="default: each request by itself")] = None
    steps: Annotated[
        tuple[RolloutStep, ...], Meta(min_length=1, max_length=32, description="`canary`: the shares, growing")
    ] = (RolloutStep(0.01), RolloutStep(0.1), RolloutStep(0.5))
    guards: Annotated[
        tuple[Guard, ...], Meta(max_length=16, description="what is watched; default: errors within 0.01")
    ] = (Guard("errors", 0.01),)
    false_rollbacks: Annotated[
        Fraction,
        Meta(
            description="the chance at most that a Version without any harm is rolled back, over all guards and steps"
        ),
    ] = 0.05
    false_promotions: Annotated[
        Fraction,
        Meta(description="the chance at most that a Version with the harm of a margin passes that guard"),
    ] = 0.05
    on_timeout: Annotated[
        Literal["hold", "rollback"],
        Meta(description="what happens when a guard has neither passed nor broken by the step's `max_duration_s`"),
    ] = "hold"


class Phase(enum.Enum):
    """Where a Rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"  # by hand: what is exposed stays so, and nothing goes on by itself
    HELD = "held"  # a guard has neither passed nor broken in time, or an alarm of drift; guards roll it back still
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"  # a guard was broken
    ABORTED = "aborted"  # by hand, or because another manifest was applied

    @property
    def over(self) -> bool:
        return self in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED)


class Verdict(enum.Enum):
    """What a comparison says. No data is never good news."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"  # but less than the margin
    NOT_YET = "not yet"
    INVALID = "invalid"


class Rollout(msgspec.Struct, frozen=True):
    """A new Version of a Model that replaces the old one. All that it was begun with stays as it was. Times are ns since 1970."""

    id: str
    model: str
    incumbent: str  # a Version's name
    candidate: str
    digest: str  # the candidate's, whole
    policy: RolloutPolicy
    began_ns: int
    step: int = 0
    since_ns: int = 0  # of the step, or of what ended it
    seen: int = 0  # calls of the candidate before this step
    phase: Phase = Phase.RUNNING
    why: str = ""  # the phase
    held_by: str = ""  # who else holds it than its own guards, until it is resumed by hand

    @property
    def share(self) -> float:
        """Of the units, that the candidate answers now."""
        return 0.0 if self.phase.over else self.policy.steps[self.step].share


class Arm(enum.IntEnum):
    """Who answers a Request while a Rollout runs. EXCLUDED: the incumbent, and nothing is compared, as its unit isn't known."""

    INCUMBENT = 0
    CANDIDATE = 1
    EXCLUDED = 2

    @property
    def word(self) -> str:
        return self.name.lower()

    def told(self, rollout: str, step: int, drawn: str = "") -> str:
        """What Attempts say of it, and with `drawn` what windows do. Each step has its own share, so what was assigned in one is
        told apart from the next.
        """
        return f"{rollout}/{step}/{self.word}" + (f"/{drawn}" if drawn else "")


# Ages at which Feedback can be compared: a minute, …, 30 days.
AGES_S = (60, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400, *(d * 86_400 for d in (2, 3, 7, 14, 30)))

AGAIN = "again"  # of what isn't an observation of its own, as its arm was drawn for another one


def after(step: int) -> str:
    """Of units that had the incumbent in that step, when they come in a later one: those that the greater share took in were drawn
    from them.
    """
    return f"after/{step}"


class Looked(msgspec.Struct, frozen=True):
    """What one look at one guard said. `low` and `high` bound the harm, `margin` is what of it is tolerated; `incumbents` and
    `candidates` are the calls that it is based on.
    """

    guard: str
    verdict: Verdict
    low: float
    high: float
    margin: float
    incumbents: int
    candidates: int
    said: str  # in words
