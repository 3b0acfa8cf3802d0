"""How the fake vendor behaves for a model: what stands behind `?` in its name, such as `small?tokens=40&fault=cut:200`. Pure."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What can be ordered.

    `fault`, with what follows its colon:
    a status (`429`, `500`, …), `hangup` (no reply), `html` (a page in the place of JSON), `length` (a content-length that
    isn't reached), `cut:N` (the connection ends after N bytes of the body), `stall:N` (nothing more after N tokens),
    `bad:N` (a chunk that is no JSON), `error:N` (an error in the stream), `unfinished` (all is there but the finish reason),
    `endless` (a body that never ends).
    `chance` is that of the fault; `usage` `none` is silent about tokens, `wrong` states what can't be.
    """

    tokens: int = 24  # of an answer
    says: str = ""  # the answer itself
    calls: str = ""  # the name of a tool that is called
    latency_ms: float = 0.0  # until the answer begins
    spread: Literal["fixed", "exponential"] = "fixed"  # of the latency
    gap_ms: float = 0.0  # between the chunks of a stream
    sure: float = 0.9  # the probability that it states for each of its tokens, where it is asked
    cached: int = 0
    reasoning: int = 0
    usage: Literal["right", "none", "wrong"] = "right"
    done: bool = True  # whether a stream ends in [DONE]
    fault: str = ""
    chance: float = 1.0
    retry_after: int = 0

    @property
    def kind(self) -> str:
        return self.fault.partition(":")[0]

    @property
    def at(self) -> int:
        """After how many bytes or tokens the fault comes."""
        number = self.fault.partition(":")[2]
        return int(number) if number.isdigit() else 0


def behaviour_of(model: str) -> Behaviour:
    """ValueError where what is ordered can't be."""
    _, _, ordered = model.partition("?")
    values: dict[str, Any] = dict(parse_qsl(ordered, keep_blank_values=True))
    return msgspec.convert(values, Behaviour, strict=False)
