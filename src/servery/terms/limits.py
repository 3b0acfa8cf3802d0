"""What tenants, keys, routes and models may use and spend."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from servery.terms.declared import Count, Declared, Positive


class Spending(Declared, frozen=True):
    """What may be spent, over all workers."""

    usd_per_day: Annotated[Positive, Meta(description="dollars a day; days begin at 0:00 UTC")] | None = None
    usd_per_month: Annotated[Positive, Meta(description="dollars a month; months begin at 0:00 UTC")] | None = None
    tokens_per_minute: (
        Annotated[Count, Meta(description="tokens of language models, read and written, in one minute of the clock")]
        | None
    ) = None
    when_spent: Annotated[
        Literal["refuse", "cheaper"],
        Meta(
            description="where a budget doesn't hold what a call may cost: `refuse` the request (429), or ask the other tiers, of which a cheaper one may fit (always so where it is a model's)"
        ),
    ] = "refuse"
    mode: Annotated[
        Literal["enforce", "observe"],
        Meta(description="`observe`: dollars a day or month and tokens are counted, but refuse nobody"),
    ] = "enforce"


class Limits(Spending, frozen=True):
    """What a tenant may use of the whole."""

    requests_per_minute: Annotated[Count, Meta(description="requests in any 60 seconds")] | None = None
    concurrency_per_worker: (
        Annotated[Count, Meta(description="requests of this tenant in flight in one worker")] | None
    ) = None
    usd_per_request: (
        Annotated[
            Positive, Meta(description="dollars that one request to a language route may cost, over all its attempts")
        ]
        | None
    ) = None
