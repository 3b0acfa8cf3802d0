"""Every fault that the fake vendor can be ordered, wherever it comes, and a manifest whose routes meet one each."""

from __future__ import annotations

import itertools
import re
from typing import Any

from fake_vendor import FakeVendor

SAYS = "one two three four five six seven eight"  # a token each
OTHER = "another tier says this"
APIS = {"openai": "chat/completions", "anthropic": "messages"}
PAIRS = tuple(itertools.product(APIS, APIS))
# Where a fault comes: before the first word, in the middle of them, behind the last but before the reason for the end, or behind that.
START, MIDDLE, LAST, AFTER = "before the first word", "between words", "behind the last word", "behind the answer"
# What is ordered of a stream, where that strikes; {cut} is a number of bytes that differs by API.
STREAMED: dict[tuple[str, str], str] = {
    **{
        (status, START): f"fault={status}" for status in ("401", "404", "408", "429", "500", "502", "503", "504", "529")
    },
    ("hangup", START): "fault=hangup",
    ("html", START): "fault=html",
    ("slow first token", START): "latency_ms=60000",
    **{(kind, START): f"fault={kind}:0" for kind in ("stall", "bad", "error", "endless")},
    **{(kind, MIDDLE): f"fault={kind}:4" for kind in ("stall", "bad", "error", "endless")},
    **{(kind, LAST): f"fault={kind}:99" for kind in ("stall", "bad", "error", "endless")},
    ("unfinished", LAST): "fault=unfinished",
    ("cut", START): "fault=cut:{start}",
    ("cut", MIDDLE): "fault=cut:{middle}",
    ("cut", LAST): "fault=cut:{last}",
    ("cut", AFTER): "fault=cut:{after}",
    ("length", AFTER): "fault=length",
    ("no [DONE]", AFTER): "done=false",
    ("no usage", AFTER): "usage=none",
    ("wrong usage", AFTER): "usage=wrong",
}
# The same of answers in one.
WHOLE: dict[str, str] = {
    **{
        f"{status}, whole": f"fault={status}"
        for status in ("401", "404", "408", "429", "500", "502", "503", "504", "529")
    },
    **{
        f"{kind}, whole": f"fault={kind}"
        for kind in ("hangup", "html", "length", "unfinished", "endless", "cut:0", "cut:80")
    },
    "slow, whole": "latency_ms=60000",
}


def stream_of(vendor: FakeVendor, api: str) -> bytes:
    """What the vendor streams when nothing goes wrong."""
    body = {"model": f"x?says={SAYS}", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    return vendor.post(APIS[api], body)


def cuts_of(streamed: bytes) -> dict[str, int]:
    """After how many bytes a cut strikes where. (Ids get longer meanwhile, so none is at the edge of an event.)"""
    first, last = streamed.index(b'"one"'), streamed.index(b'" eight"')
    finish = re.search(rb'"(finish|stop)_reason": "', streamed)
    assert finish is not None
    ended = streamed.index(b"\n\n", finish.start())
    return {
        "start": first // 2,
        "middle": (first + last) // 2,
        "last": finish.start() - 9,
        "after": (ended + len(streamed)) // 2,
    }


def manifest(vendor: FakeVendor) -> dict[str, Any]:
    price = {"usd_per_1m_input": 1, "usd_per_1m_output": 2}
    models: dict[str, Any] = {
        "other": {"runtime": "openai", "endpoint": vendor.url, "serves": f"x?says={OTHER}", "price": price}
    }
    routes: dict[str, Any] = {}
    for target, face in PAIRS:
        cuts = cuts_of(stream_of(vendor, target))
        orders = {name: order.format(**cuts) for name, order in [*STREAMED.items(), *WHOLE.items()]}
        for name, order in orders.items():
            key = f"{face} by {target}: {name}"
            stalls = order.startswith("fault=stall") and not order.endswith(":0")
            model = {"runtime": target, "endpoint": vendor.url, "serves": f"x?says={SAYS}&{order}", "price": price}
            models[key] = {**model, "first_token_ms": 5_000}
            tiers = [{"name": "faulty", "model": key}, {"name": "other", "model": "other"}]
            routes[f"route {key}"] = {
                "deadline_ms": 10_000 if stalls else 60_000,
                "policy": {"retries": 0},
                "tiers": tiers,
            }
    return {"models": models, "routes": routes}
