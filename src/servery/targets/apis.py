"""The APIs of endpoints: how each is asked, what it is told beside a prompt, and what it says of its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import msgspec

from servery.host.client import Reply
from servery.terms.manifest import Model
from servery.terms.text import Form
from servery.wire import messages, openai
from servery.wire.answer import Error
from servery.wire.dialects import Dialect, of_anthropic, of_openai

NS = 1_000_000_000
_LONGEST_S = 86_400.0  # of what a header states
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # as in x-ratelimit-reset-requests: 6m0s
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Api(msgspec.Struct, frozen=True):
    """One API. `key` is the header for a secret, after `before`; `remaining` and `reset` are those of its limit of calls."""

    dialects: Callable[[str, bool], dict[Form, Dialect]]
    read_error: Callable[[bytes], Error]
    key: str
    before: str
    remaining: str
    reset: str
    headers: tuple[tuple[str, str], ...] = ()


OPENAI = Api(
    of_openai,
    openai.read_error,
    "authorization",
    "Bearer ",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
ANTHROPIC = Api(
    of_anthropic,
    messages.read_error,
    "x-api-key",
    "",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    (("anthropic-version", "2023-06-01"),),
)
APIS: Mapping[str, Api] = {"openai": OPENAI, "anthropic": ANTHROPIC}


def api_of(model: Model) -> Api:
    """By its runtime."""
    return APIS[model.runtime]


def asked_pause_s(reply: Reply, api: Api, now_wall_ns: int) -> float:
    """For how long an endpoint that takes no more wants to be left alone; 0 where it doesn't say."""
    stated = reply.header("retry-after-ms")
    if stated is not None:
        return period_s(f"{stated.strip()}ms")
    stated = (reply.header("retry-after") or "").strip()
    if not stated:
        return reset_s(reply, api, now_wall_ns)
    if period := period_s(f"{stated}s"):
        return period
    try:
        at = parsedate_to_datetime(stated)
    except ValueError:
        return 0.0
    return _until_s(at, now_wall_ns)


def spent_pause_s(reply: Reply, api: Api, now_wall_ns: int) -> float:
    """The pause that an endpoint wants which has answered, and says that this was the last call for now."""
    return reset_s(reply, api, now_wall_ns) if reply.header(api.remaining) == "0" else 0.0


def reset_s(reply: Reply, api: Api, now_wall_ns: int) -> float:
    """When the limit of calls begins anew, in seconds from now: a period, or a time (RFC 3339)."""
    stated = reply.header(api.reset) or ""
    if period := period_s(stated):
        return period
    try:
        return _until_s(datetime.fromisoformat(stated), now_wall_ns)
    except ValueError:
        return 0.0


def _until_s(at: datetime, now_wall_ns: int) -> float:
    return min(max(at.timestamp() - now_wall_ns / NS, 0.0), _LONGEST_S)


def period_s(text: str) -> float:
    """The seconds that a text such as `6m0s` or `20ms` states; 0 where it states none."""
    found = _PERIOD.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        return 0.0
    return min(sum(float(number) * _UNIT_S[unit] for number, unit in found), _LONGEST_S)
