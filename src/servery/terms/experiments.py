"""How arms of a Route are compared to learn something: as the Manifest declares it, and while it happens.

Descriptions here become the JSON Schema and docs/manifest.md.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from servery.terms.declared import Count, Declared, Fraction, Name, Positive
from servery.terms.rollouts import Unit, Verdict
from servery.terms.routes import Policy, Route, Threshold, Tier

EXCLUDED, BEFORE = "excluded", "before"  # in the place of an arm: nobody knew the unit; the time before the start
OTHER = "other"  # the Segment of units that say none of the declared ones
_MARK = "x"  # what an Experiment's id begins with; those of Rollouts are hex


class Arm(Declared, frozen=True):
    """One of the ways in which a Route answers. What isn't written is as the Route has it."""

    name: Annotated[Name, Meta(description="what Records and reports call it")]
    share: Annotated[float, Meta(gt=0, lt=1, description="of the units; those of all arms add up to 1")]
    models: Annotated[dict[Name, Name], Meta(description="by tier, another model: `cheap: digits-new`")] = {}
    accept: Annotated[
        dict[Name, Fraction], Meta(description="by tier, another confidence from which its answers stand")
    ] = {}
    thresholds: Annotated[
        tuple[Threshold, ...], Meta(max_length=15, description="other thresholds of `policy: {kind: complexity}`")
    ] = ()
    policy: Annotated[Policy | None, Meta(description="another policy, whole")] = None
    tiers: Annotated[tuple[Tier, ...], Meta(max_length=16, description="other tiers, whole")] = ()

    @property
    def changes(self) -> bool:
        """Whether it is anything but what the Route has."""
        return bool(self.models or self.accept or self.thresholds or self.policy is not None or self.tiers)


class Metric(Declared, frozen=True):
    """What is compared: of each unit the sums over its requests, so that a unit that comes often counts once."""

    metric: Annotated[
        Literal["errors", "cost", "latency", "feedback"],
        Meta(
            description="`errors`: requests without an answer; `cost`: dollars; `latency`: the seconds until an answer, their mean or a `quantile`; `feedback`: a value that callers tell later"
        ),
    ]
    margin: Annotated[
        Positive,
        Meta(
            description="of the primary metric the smallest difference that matters, of a guardrail the harm that is tolerated: a difference of shares or values, for `latency` and `cost` a part of the control's (0.1 is 10 %)"
        ),
    ]
    per: Annotated[
        Literal["request", "unit"],
        Meta(
            description="`request`: the sum over all units' requests, divided by their number (`cost`: by that of inferences, `feedback`: of values); `unit`: the mean of the units' sums, also of those without any"
        ),
    ] = "request"
    quantile: Annotated[
        float | None,
        Meta(
            description="`latency`: which quantile of the seconds until an answer, from 0.5 to 0.999, instead of their mean"
        ),
    ] = None
    name: Annotated[str, Meta(max_length=128, description="`feedback`: its name")] = ""
    better: Annotated[
        Literal["higher", "lower", "equal"],
        Meta(
            description="`feedback`: whether a higher or a lower value is the better one; `equal`: 1 where it is what the model predicted, else 0"
        ),
    ] = "higher"
    bounds: Annotated[
        tuple[float, float],
        Meta(
            description="`feedback`: about the smallest and the largest value; what was not seen yet may be as far away"
        ),
    ] = (0.0, 1.0)

    @property
    def rare(self) -> float:
        """What one event adds that is so rare that it wasn't seen yet; 0 where nothing of the kind is feared."""
        if self.metric == "feedback" and self.better != "equal":
            return self.bounds[1] - self.bounds[0]
        return 1.0 if self.metric in ("errors", "feedback") else 0.0

    @property
    def called(self) -> str:
        """`errors`, `cost per unit`, `feedback label`."""
        told = f"feedback {self.name}" if self.metric == "feedback" else self.metric
        if self.quantile is not None:
            return f"{told} p{100 * self.quantile:g}"
        return f"{told} per unit" if self.per == "unit" else told

    @property
    def relative(self) -> bool:
        """Whether the margin is a part of the control's value."""
        return self.metric in ("cost", "latency")


class Segments(Declared, frozen=True):
    """Parts of the units that are told by themselves, beside the whole. They decide nothing."""

    header: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            description="the header (over gRPC: metadata) in which a unit's first request says it",
        ),
    ]
    values: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(min_length=1, max_length=12, description="what it may say; all others are `other`"),
    ]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.values, OTHER)


class Design(Declared, frozen=True):
    """An experiment: arms of a Route that are compared on live traffic."""

    route: Annotated[Name, Meta(description="whose requests are shared out")]
    arms: Annotated[
        tuple[Arm, ...],
        Meta(min_length=2, max_length=8, description="the first is the control: the route as it is declared"),
    ]
    primary: Annotated[Metric, Meta(description="what decides")]
    why: Annotated[str, Meta(max_length=2_000, description="what is expected, and why it matters")] = ""
    unit: Annotated[Unit | None, Meta(description="who keeps its arm; default: each request by itself")] = None
    guardrails: Annotated[
        tuple[Metric, ...], Meta(max_length=16, description="what an arm may not harm by more than the margin")
    ] = ()
    segments: Annotated[
        Segments | None, Meta(description="parts of the units whose metrics are told too, and decide nothing")
    ] = None
    false_winners: Annotated[
        Fraction,
        Meta(
            description="the chance at most that an arm without a difference is called better or worse, over all arms and looks"
        ),
    ] = 0.05
    false_passes: Annotated[
        Fraction, Meta(description="the chance at most that an arm with the harm of a margin passes that guardrail")
    ] = 0.05
    min_units: Annotated[
        int, Meta(ge=100, description="units of an arm and the control together, before anything is said")
    ] = 1000
    units: Annotated[
        Count, Meta(description="about so many are expected of an arm and the control: bounds are narrowest there")
    ] = 10_000
    age_s: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="a unit counts once its first request is so old, so that labels that come late have come",
        ),
    ] = 0
    before_s: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="so long everybody gets the control, and what units do then explains a part of what they do later: bounds are narrower where users differ",
        ),
    ] = 0
    max_duration_s: Annotated[
        float,
        Meta(gt=0, le=31_536_000, description="after the start of the comparison it is concluded, whatever is known"),
    ] = 7_776_000


class Stage(enum.Enum):
    """Where an Experiment stands. A draft is declared only."""

    DRAFT = "draft"
    BEFORE = "before"  # everybody gets the control, and it is remembered what units do
    RUNNING = "running"
    CONCLUDED = "concluded"


class Conclusion(enum.Enum):
    """What an Experiment came to."""

    SHIP = "ship"  # an arm is better, and passed every guardrail
    KEEP = "keep"  # the control: the arms are worse, or nothing was decided
    NO_DIFFERENCE = "no difference"  # that matters
    INVALID = "invalid"


class Experiment(msgspec.Struct, frozen=True):
    """One that was started. All that it was begun with stays as it was. Times are ns since 1970."""

    id: str
    name: str
    design: Design
    began_ns: int
    stage: Stage = Stage.RUNNING
    since_ns: int = 0  # the stage
    conclusion: Conclusion | None = None
    arm: str = ""  # that is to be shipped
    who: str = ""  # started or ended it
    why: str = ""


class Looked(msgspec.Struct, frozen=True):
    """What one look said of one metric of one arm. The harm is told: above 0 the arm is worse. `control` and `value` are what
    both arms have in the metric's own units, `units` those of both that it is based on.
    """

    arm: str
    metric: str
    primary: bool
    verdict: Verdict
    harm: float
    low: float
    high: float
    margin: float
    control: float
    value: float
    units: int
    said: str  # in words
    segment: str = ""  # of the units; "": all of them


class Look(msgspec.Struct, frozen=True):
    """One look at all of an Experiment: once it was had it is never rewritten."""

    at_ns: int
    looks: tuple[Looked, ...]


def experiment_id(hexadecimal: str) -> str:
    """What Records call an Experiment; also the salt of its assignment."""
    return _MARK + hexadecimal


def is_experiment(assigned: str) -> bool:
    """Whether what a Request was assigned in is an Experiment."""
    return assigned.startswith(_MARK)


def route_of(route: Route, arm: Arm) -> Route:
    """The Route as it answers in this arm."""
    replace = msgspec.structs.replace
    tiers = arm.tiers or route.tiers
    changed: list[Tier] = []
    for tier in tiers:
        accept = tier.accept
        if tier.name in arm.accept and accept is not None:
            accept = replace(accept, confidence=arm.accept[tier.name])
        other = arm.models.get(tier.name)
        moved = (
            replace(tier, accept=accept) if other is None else replace(tier, accept=accept, model=other, version=None)
        )
        changed.append(moved)
    policy = arm.policy or route.policy
    if arm.thresholds:
        policy = replace(policy, thresholds=arm.thresholds)
    return replace(route, tiers=tuple(changed), policy=policy)
