"""How a new Version of a Model replaces the old one: as the Manifest declares it, and while it happens.

Descriptions here become the JSON Schema and docs/manifest.md.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

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
        Literal["errors", "latency", "cost", "feedback", "output", "agreement"],
        Meta(
            description="`errors`: the share of calls without an answer; `latency`: a quantile of the time of a call; `cost`: dollars a row; `feedback`: a value that callers tell later; `output`: a number that the model itself gives; `agreement` (`shadow`): the share of rows that it answers in another way"
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
    name: Annotated[str, Meta(max_length=128, description="`feedback`, `output`: its name")] = ""
    better: Annotated[
        Literal["higher", "lower", "equal"],
        Meta(
            description="`feedback`, `output`: whether a higher or a lower value is the better one; `equal` (`feedback`): 1 where it is what the model predicted, else 0"
        ),
    ] = "higher"
    bounds: Annotated[tuple[float, float], Meta(description="`feedback`, `output`: the smallest and the largest value")] = (0.0, 1.0)  # fmt: skip
    within_s: Annotated[
        int,
        Meta(
            ge=0,
            description="`feedback`: only what is told within this time counts, and only of calls that are as old; default: all that has been told",
        ),
    ] = 0


class RolloutStep(Declared, frozen=True):
    """A share of the units, held until every guard has passed."""

    share: Annotated[float, Meta(ge=0, le=1, description="of the units, that the new Version answers")]
    min_requests: Annotated[int, Meta(ge=0, description="calls of the new Version before the next step")] = 100
    bake_s: Annotated[float, Meta(ge=0, le=2_592_000, description="how long the step lasts at least")] = 60
    max_duration_s: Annotated[
        float, Meta(gt=0, le=31_536_000, description="how long it waits for every guard to pass")
    ] = 3600


class Message(Declared, frozen=True):
    """A part of what a language model is asked."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], Meta(description="who says it")]
    content: Annotated[str, Meta(description="what is said")]


class Check(Declared, frozen=True):
    """A call that a new Version must answer as is said here before anybody is given it."""

    inputs: Annotated[dict[str, Any], Meta(description="each input's values, nested as its shape: `{x: [[1.5, 2]]}`")] = msgspec.field(default_factory=dict[str, Any])  # fmt: skip
    outputs: Annotated[dict[str, Any], Meta(description="what it must answer, in the same form; the others may be anything")] = msgspec.field(default_factory=dict[str, Any])  # fmt: skip
    within: Annotated[float, Meta(ge=0, description="how far a number may be from what is said")] = 0.0
    refused: Annotated[bool, Meta(description="whether it must be refused as invalid")] = False
    prompt: Annotated[str, Meta(description="of a language model, in the place of all above: what it is asked")] = ""
    messages: Annotated[tuple[Message, ...], Meta(max_length=64, description="the same, where it is more than a question")] = ()  # fmt: skip
    contains: Annotated[str, Meta(description="what must stand in the answer; case is nothing")] = ""
    equals: Annotated[str, Meta(description="what the answer must be, but for case and the white space around it; with `json` as a value")] = ""  # fmt: skip
    matches: Annotated[str, Meta(description="the pattern (of Python) that must be found in the answer")] = ""
    json: Annotated[bool, Meta(description="whether the answer must be JSON, and nothing beside")] = False

    @property
    def asks(self) -> bool:
        """Whether it is for a language model."""
        return bool(self.prompt or self.messages or self.contains or self.equals or self.matches or self.json)


class Mirror(Declared, frozen=True):
    """What calls of a Version that nobody is given may take. Beyond it they are dropped and counted, and never wait."""

    concurrency: Annotated[int, Meta(ge=1, le=1024, description="at once, in each worker")] = 4
    usd_per_hour: (
        Annotated[
            Positive, Meta(description="what they may cost, over all workers; language models need it; default: any")
        ]
        | None
    ) = None


class Alike(Declared, frozen=True):
    """When two answers to the same call say the same."""

    outputs: Annotated[tuple[str, ...], Meta(max_length=64, description="which are compared; default: all that both have")] = ()  # fmt: skip
    within: Annotated[float, Meta(ge=0, description="how far numbers may be apart; labels and texts must be equal")] = (
        0.0
    )


class RolloutPolicy(Declared, frozen=True):
    """How new Versions of a Model are brought out."""

    kind: Annotated[
        Literal["at-once", "canary", "blue-green", "shadow", "rolling"],
        Meta(
            description="`at-once`: in one swap; `canary`: to a growing share, judged by guards, and rolled back by itself where one is broken; `blue-green`: checked beside the old one, then to everybody in one swap, and back in one as long as it bakes; `shadow`: it is asked beside the old one, which answers everybody; `rolling`: in the place of one Replica after the other"
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
    checks: Annotated[
        tuple[Check, ...],
        Meta(max_length=256, description="calls that the new Version must answer as they say before it is exposed"),
    ] = ()
    share: Annotated[float, Meta(gt=0, lt=1, description="`shadow`: of the units, whose calls the new Version is asked too")] = 0.1  # fmt: skip
    mirror: Annotated[Mirror, Meta(description="`shadow`: what that may take")] = Mirror()
    alike: Annotated[Alike, Meta(description="`shadow`: what the guard `agreement` counts as the same answer")] = (
        Alike()
    )
    when_passed: Annotated[
        Literal["promote", "wait"],
        Meta(description="what happens when every guard has passed at the last step; `wait`: for a person"),
    ] = "promote"
    min_requests: Annotated[
        int,
        Meta(ge=0, description="`blue-green`, `shadow`, `rolling`: calls of the new Version before the step is over"),
    ] = 100
    bake_s: Annotated[
        float,
        Meta(
            ge=0,
            le=2_592_000,
            description="`blue-green`: how long the old one stays loaded after the switch at least; `shadow`: how long it is asked; `rolling`: how long each Replica answers before the next",
        ),
    ] = 600
    max_duration_s: Annotated[
        float,
        Meta(
            gt=0,
            le=31_536_000,
            description="how long checks, and with all kinds but `canary` guards, are waited for",
        ),
    ] = 3600


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
    replicas: tuple[int, int] = (1, 1)  # of the incumbent and of the candidate, as they are declared

    @property
    def gated(self) -> bool:
        """Whether this step waits for the candidate itself alone: that all of it is ready, and its checks have passed."""
        return not self.policy.steps[self.step].share or (self.policy.kind == "rolling" and self.step % 2 == 0)

    @property
    def running(self) -> tuple[int, int]:
        """How many Replicas of the incumbent and of the candidate run now. While another one of the candidate starts, none goes."""
        if self.policy.kind != "rolling":
            return self.replicas
        fresh = self.step // 2 + 1
        return left(self.replicas[0], fresh - 1 if self.gated else fresh), fresh

    @property
    def share(self) -> float:
        """Of the units, that the candidate answers now."""
        return 0.0 if self.phase.over else self.policy.steps[self.step].share

    @property
    def reach(self) -> str:
        """Who has to do with the candidate now, in words."""
        return reach(self.policy.kind, self.share)


def left(replicas: int, replaced: int) -> int:
    """How many of these Replicas run while so many are replaced: one at least, until the end."""
    return max(replicas - replaced, 1)


def reach(kind: str, share: float) -> str:
    """What a share means with a kind of Rollout."""
    if not share:
        return "nobody yet"
    return f"{share:.3g} of the units" + (", mirrored" if kind == "shadow" else "")


class Arm(enum.IntEnum):
    """Who answers a Request while a Rollout runs. EXCLUDED: the incumbent, and nothing is compared, as its unit isn't known.

    Where the candidate only shadows, the incumbent answers everybody: MIRRORED are asked of the candidate too. While there is no room
    for that, DROPPED would have been, and ASIDE not; neither is compared.
    """

    INCUMBENT = 0
    CANDIDATE = 1
    EXCLUDED = 2
    MIRRORED = 3
    DROPPED = 4
    ASIDE = 5

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
