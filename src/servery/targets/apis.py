"""The APIs of endpoints: how each is asked, what it is told beside a prompt, and what it says of its limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

import msgspec

from servery.terms.manifest import Model
from servery.terms.text import Form
from servery.wire import messages, openai
from servery.wire.answer import Error
from servery.wire.dialects import Dialect, of_anthropic, of_openai

NS = 1_000_000_000
_LONGEST_S = 86_400.0  # of what a header states
_LONGEST_CHARS = 64  # of one that states a time: what is longer would take long to read, and says nothing
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # as in x-ratelimit-reset-requests: 6m0s
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Headed(Protocol):
    """A reply, as far as its header lines are read here."""

    def header(self, name: str) -> str | None: ...


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


def asked_pause_s(reply: Headed, api: Api, now_wall_ns: int) -> float:
    """For how long an endpoint that takes no more wants to be left alone; 0 where it doesn't say."""
    if stated := _stated(reply, "retry-after-ms"):
        return period_s(f"{stated}ms")
    stated = _stated(reply, "retry-after")
    if not stated:
        return reset_s(reply, api, now_wall_ns)
    return period_s(f"{stated}s") or _until_s(parsedate_to_datetime, stated, now_wall_ns)


def spent_pause_s(reply: Headed, api: Api, now_wall_ns: int) -> float:
    """The pause that an endpoint wants which has answered, and says that this was the last call for now."""
    return reset_s(reply, api, now_wall_ns) if reply.header(api.remaining) == "0" else 0.0


def reset_s(reply: Headed, api: Api, now_wall_ns: int) -> float:
    """When the limit of calls begins anew, in seconds from now: a period, or a time (RFC 3339)."""
    stated = _stated(reply, api.reset)
    return period_s(stated) or _until_s(datetime.fromisoformat, stated, now_wall_ns)


def _stated(reply: Headed, name: str) -> str:
    """What a header line says of a time; "" where it says nothing, or what can't be one."""
    stated = (reply.header(name) or "").strip()
    return stated if len(stated) <= _LONGEST_CHARS else ""


def _until_s(read: Callable[[str], datetime], stated: str, now_wall_ns: int) -> float:
    """The seconds until a time that `read` makes of what is stated; 0 where it is none."""
    try:
        at_s = read(stated).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(at_s - now_wall_ns / NS, 0.0), _LONGEST_S)


def period_s(text: str) -> float:
    """The seconds that a text such as `6m0s` or `20ms` states; 0 where it states none."""
    found = _PERIOD.findall(text)
    if "".join(number + unit for number, unit in found) != text:
        return 0.0
    return min(sum(float(number) * _UNIT_S[unit] for number, unit in found), _LONGEST_S)
