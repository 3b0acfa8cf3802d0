"""The Route and its parts, as the Manifest declares them. Descriptions here become the JSON Schema and docs/manifest.md."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from servery.terms.declared import Declared, Fraction, Name, Positive
from servery.terms.limits import Limits

DEADLINE_MS = 30_000.0

Threshold = Annotated[float, Meta(ge=-1, le=1)]


class Slo(Declared, frozen=True):
    """A promise about latency: measured and reported, not enforced."""

    p50_ms: Annotated[Positive, Meta(description="half of the requests are answered within this time")] | None = None
    p95_ms: Annotated[Positive, Meta(description="95 % of the requests are answered within this time")] | None = None
    p99_ms: Annotated[Positive, Meta(description="99 % of the requests are answered within this time")] | None = None


class Ceiling(Declared, frozen=True):
    """A promise about money."""

    mean_usd_per_million: Annotated[float, Meta(gt=0, description="mean dollars per million inferences")] | None = None
    max_usd_per_inference: (
        Annotated[float, Meta(gt=0, description="dollars that one inference may cost at most")] | None
    ) = None


class Accept(Declared, frozen=True):
    """When a tier's own answer to a row is good enough."""

    confidence: Annotated[
        Fraction, Meta(description="rows, or answers in text, at or above this confidence stand; the others go on")
    ]
    range: (
        Annotated[
            tuple[Fraction, Fraction],
            Meta(
                description="how far the threshold may move: by `servery route calibrate`, and [while it serves](routing.md#pacing) so that the mean ceiling and the shares are kept"
            ),
        ]
        | None
    ) = None
    check: Annotated[
        Literal["logprob", "margin", "agreement", "json_schema", "verifier"] | None,
        Meta(description="[how sure an answer in text is](language-models.md#cascades)"),
    ] = None
    verifier: Annotated[
        str,
        Meta(
            description="`check: verifier`: a file of [`servery verifier train`](verifiers.md), relative to the manifest"
        ),
    ] = ""


class Tier(Declared, frozen=True):
    """A rung of a Route: a name that points at a Model."""

    name: Annotated[Name, Meta(description="what replies and reports call it")]
    model: Annotated[Name, Meta(description="a key under `models`")]
    accept: Accept | None = None
    share: (
        Annotated[tuple[Fraction, Fraction], Meta(description="band for the share of rows that this tier answers")]
        | None
    ) = None
    version: (
        Annotated[Name, Meta(description="a number or label of the model; default: its highest number served")] | None
    ) = None
    priority: Annotated[
        int,
        Meta(
            ge=-1_000,
            le=1_000,
            description="calls of a larger one run first; added to that of the tenant's subscription",
        ),
    ] = 0


class Hedging(Declared, frozen=True):
    """A second call to the same model beside one that takes unusually long; the first to answer is heard."""

    quantile: Annotated[
        float,
        Meta(gt=0, lt=1, description="it is made when so many of the model's last calls would have been there"),
    ] = 0.95
    after_ms: Annotated[Positive, Meta(description="it is made after this time instead")] | None = None
    share: Annotated[
        float, Meta(gt=0, le=1, description="such calls may cost at most this share of what the others do")
    ] = 0.05


class Policy(Declared, frozen=True):
    """How a Route picks a tier, and who answers where one fails."""

    kind: Annotated[
        Literal["fixed", "static", "cascade", "complexity"],
        Meta(
            description="`fixed`: the first tier answers; `static`: the one that is chosen for the caller; `cascade`: a row goes on until a tier is sure; `complexity`: the one that the prompt's score picks"
        ),
    ] = "fixed"
    by: (
        Annotated[
            Literal["subscription", "header", "parameter"],
            Meta(description="`static`: what chooses: the tenant's subscription, or what the request itself says"),
        ]
        | None
    ) = None
    name: Annotated[
        str, Meta(max_length=128, description="`static`: which header (over gRPC: metadata) or parameter")
    ] = ""
    choose: Annotated[
        dict[Name, Name], Meta(description="`static`: for each value the tier that answers, such as `gold: premium`")
    ] = {}
    default: (
        Annotated[Name, Meta(description="`static`: the tier for every other value, and for none; default: the first")]
        | None
    ) = None
    thresholds: Annotated[
        tuple[Threshold, ...],
        Meta(
            max_length=15,
            description="`complexity`: one less than tiers, ascending; a score above the first of them skips the first tier, and so on",
        ),
    ] = ()
    ranges: Annotated[
        tuple[tuple[Threshold, Threshold], ...],
        Meta(
            max_length=15,
            description="`complexity`: for each threshold how far it may move [while it serves](routing.md#pacing), so that the mean ceiling and the shares are kept; default: not at all",
        ),
    ] = ()
    router: Annotated[
        str,
        Meta(
            description="`complexity`: a file of [`servery router train`](routers.md), relative to the manifest; default: a built-in score from 0 to 1"
        ),
    ] = ""
    fallback: (
        Annotated[
            tuple[Name, ...],
            Meta(
                max_length=16,
                description="tiers that are asked, in this order, where one fails; default: all others as they are declared; `[]`: none",
            ),
        ]
        | None
    ) = None
    retries: Annotated[
        int,
        Meta(
            ge=0,
            le=5,
            description="language models: how often the same tier is asked again, where that may help, before another one is",
        ),
    ] = 1
    explore: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="language models: the share of requests whose first tier is drawn evenly from those that can answer; Records then say what other policies would have done",
        ),
    ] = 0
    hedge: Hedging | None = None
    hold_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="language models: chunks of a stream that are held back; until then another tier can still take over",
        ),
    ] = 0


class Route(Declared, frozen=True):
    """The public name that callers use, with its promises and its tiers."""

    tiers: Annotated[tuple[Tier, ...], Meta(min_length=1, max_length=16)]
    policy: Policy = Policy()
    slo: Slo | None = None
    deadline_ms: Annotated[
        float, Meta(gt=0, le=86_400_000, description="a limit, enforced; a caller may ask for less, not for more")
    ] = DEADLINE_MS
    ceiling: Ceiling | None = None
    limits: Annotated[Limits, Meta(description="what may be used of this route, by all tenants")] = Limits()
