"""What tenants, keys, routes and models may use and spend, and where that is counted."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from servery.terms.declared import Count, Credentials, Declared

# Counters are whole numbers of 64 bits, in pico-dollars where they count money.
_MOST_USD = 4_000_000
_Usd = Annotated[float, Meta(gt=0, le=_MOST_USD)]
_Many = Annotated[int, Meta(ge=1, le=10**12)]


class Limits(Declared, frozen=True):
    """What a tenant, a key, a route or a model may use of the whole. What all of them allow is allowed."""

    requests_per_minute: (
        Annotated[_Many, Meta(description="requests in any 60 seconds, over all workers; of a model its calls")] | None
    ) = None
    concurrency_per_worker: (
        Annotated[Count, Meta(description="requests under way at once in each worker; of a model its calls")] | None
    ) = None
    tokens_per_minute: (
        Annotated[_Many, Meta(description="tokens of language models, read and written, in one minute of the clock")]
        | None
    ) = None
    usd_per_request: (
        Annotated[
            _Usd,
            Meta(
                description="dollars that one request to language models may cost, over all its attempts; of a model one call of it"
            ),
        ]
        | None
    ) = None
    usd_per_day: Annotated[_Usd, Meta(description="dollars a day; days begin at 0:00 UTC")] | None = None
    usd_per_month: Annotated[_Usd, Meta(description="dollars a month; months begin at 0:00 UTC")] | None = None
    when_spent: Annotated[
        Literal["refuse", "cheaper"],
        Meta(
            description="`refuse` what is over a limit (429); or let language routes answer it by a cheaper tier, where there is one. Where a model is over its own, other tiers are asked, whatever this says"
        ),
    ] = "refuse"
    mode: Annotated[
        Literal["enforce", "observe"],
        Meta(
            description="`observe`: all but `usd_per_request` is counted, and refuses nobody; the log says once a minute what would have been refused"
        ),
    ] = "enforce"


class Counters(Declared, frozen=True):
    """Where limits and budgets are counted: in files of this machine, or in a Redis for all machines that name it."""

    redis: Annotated[
        str,
        Meta(
            max_length=2048,
            pattern=r"^((redis|rediss|unix)://\S+)?$",
            description="`redis://HOST:6379/0`, `rediss://…` for TLS, or `unix:///PATH`; needs `servery[redis]`",
        ),
    ] = ""
    username: Annotated[str, Meta(max_length=256, description="of the Redis, where it has users")] = ""
    credentials: Credentials | None = None
    prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
            description="what the Redis's keys begin with: those who share it count together",
        ),
    ] = "servery"
    on_unavailable: Annotated[
        Literal["local_share", "refuse"],
        Meta(
            description="while the counters can't be reached: each worker goes on within its own share of each limit and of what was left of each budget; or what needs them is refused (503)"
        ),
    ] = "local_share"
