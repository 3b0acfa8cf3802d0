"""What of a Request's Content is kept, as it goes past on its way to the caller."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from servery.gateway.keeping import Keeping
from servery.gateway.texts import Speaker, TextTier
from servery.gateway.trail import Trail
from servery.terms.content import TENSORS, Content, Kept
from servery.terms.request import Answer, Request
from servery.terms.text import Form
from servery.wire import glimpse
from servery.wire.glimpse import Glimpse

log = logging.getLogger("servery.content")

MOST_BYTES = 2 * 2**20  # of what was asked, and of what was answered


class Contents(Protocol):
    """Where Content goes. It never fails: what can't be kept is dropped there."""

    def keep(self, kept: Kept) -> None: ...


class Overheard:
    """A Speaker that passes everything on, and remembers what the caller was sent, up to MOST_BYTES."""

    __slots__ = ("_form", "_keeping", "_size", "_speaker", "_trail", "cut", "left", "parts", "record_id")

    def __init__(self, speaker: Speaker, keeping: Keeping, trail: Trail, form: Form) -> None:
        self.record_id = speaker.record_id
        self.left = speaker.left
        self.parts: list[bytes] = []
        self.cut = False
        self._speaker = speaker
        self._keeping = keeping
        self._trail = trail
        self._form = form
        self._size = 0

    @property
    def begun(self) -> bool:
        """As of Speaker."""
        return self._speaker.begun

    def header(self, name: str) -> str | None:
        """As of Speaker."""
        return self._speaker.header(name)

    def whole(self, tier: TextTier, body: bytes, degraded: str) -> None:
        """As of Speaker."""
        self._speaker.whole(tier, body, degraded)
        self._hear(body)

    async def say(self, tier: TextTier, chunks: list[bytes], degraded: str = "") -> None:
        """As of Speaker."""
        await self._speaker.say(tier, chunks, degraded)
        for chunk in chunks:
            self._hear(chunk)

    async def end(self) -> None:
        """As of Speaker."""
        await self._speaker.end()

    def kept(self, asked: bytes) -> Kept:
        """What is known at the end of the Request, however it ended; `asked` is the body that was sent."""
        cut = self.cut or len(asked) > MOST_BYTES
        content = Content(self._form.value, asked[:MOST_BYTES], tuple(self.parts), cut)
        return _kept(self._keeping, self._trail, len(content.asked) + self._size, lambda: content)

    def _hear(self, part: bytes) -> None:
        if self._size + len(part) <= MOST_BYTES and not self.cut:
            self._size += len(part)
            self.parts.append(part)
        else:
            self.cut = True


def overhear(keepings: Mapping[str, Keeping], route: str, trail: Trail, ask: Speaker, form: Form) -> Overheard | None:
    """Who listens to an answer in text, where its Content is kept."""
    keeping = keepings.get(trail.caller.tenant)
    return Overheard(ask, keeping, trail, form) if keeping is not None and keeping.wants(route, trail.id) else None


def keep_tensors(
    keepings: Mapping[str, Keeping], trail: Trail, request: Request, answer: Answer, contents: Contents
) -> None:
    """Keep the first elements of what was sent and answered, where the Content of this Request is kept."""
    keeping = keepings.get(trail.caller.tenant)
    if keeping is None or not keeping.wants(trail.route, trail.id):
        return
    asked, answered = glimpse.glimpse(request.inference.inputs), glimpse.glimpse(answer.outputs)
    size = sum([one.first.nbytes for one in (*asked, *answered)])
    contents.keep(_kept(keeping, trail, size, functools.partial(_of_tensors, asked, answered)))


def _of_tensors(asked: Sequence[Glimpse], answered: Sequence[Glimpse]) -> Content:
    sent, sent_cut = glimpse.encode("inputs", asked)
    told, told_cut = glimpse.encode("outputs", answered)
    return Content(TENSORS, sent, (told,), sent_cut or told_cut)


def _kept(keeping: Keeping, trail: Trail, size: int, make: Callable[[], Content]) -> Kept:
    return Kept(trail.id, trail.caller.tenant, keeping.region, trail.at_ns + keeping.keep_ns, size, make)
