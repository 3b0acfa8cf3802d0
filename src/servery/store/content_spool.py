"""Where a worker puts Content: taken on the event loop, within a bound, and written by a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from servery.host.clock import Clock
from servery.host.settings import DataFolder
from servery.store.content_writer import SEGMENT_NS, ContentWriter
from servery.store.sealing import Sealer, new_key, read_keys
from servery.terms.content import Kept
from servery.terms.server import Records

log = logging.getLogger("servery.content")

GROUP_S = 0.05  # a group is written this long after its first Content: a kill may cost what is younger
PENDING_BYTES = 16 * 2**20
_ENTRY_BYTES = 512  # of what is kept, beside what was said


class ContentSpool:
    """A Service, owned by one worker's event loop; all methods are called there. With `early` the keys are read at the start.

    Nothing that goes wrong here is anybody's else: what can't be kept is dropped, and counted.
    """

    name = "content"
    unready = ""

    def __init__(self, writer: ContentWriter, *, early: bool) -> None:
        self._writer = writer
        self._early = early
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="content")
        self._pending: list[Kept] = []
        self._size = 0  # of what is pending and of what is being written
        self._dropped: Counter[str] = Counter()  # by tenant, since the last group
        self._started = self._scheduled = self._ended = False
        self._look: asyncio.TimerHandle | None = None

    def keep(self, kept: Kept) -> None:
        """Keep it, or drop it where there is no room."""
        size = kept.size + _ENTRY_BYTES
        if self._ended or self._size + size > PENDING_BYTES:
            self._dropped[kept.tenant] += 1
        else:
            self._pending.append(kept)
            self._size += size
        if self._started and not (self._scheduled or self._ended):
            self._schedule()

    async def start(self) -> None:
        """Begin to write: what came before has waited, as its Records have."""
        if self._early:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.prepare)
        self._started = True
        if self._pending:
            self._schedule()

    async def drain(self) -> None:
        """Write what is pending and end the run."""
        if self._ended:
            return
        self._ended = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._writer.write, self._pending, self._dropped)
        await loop.run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=True)

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_later(GROUP_S, self._flush)

    def _flush(self) -> None:
        if self._ended:
            return
        group, self._pending = self._pending, []
        dropped, self._dropped = self._dropped, Counter()
        size = sum([kept.size + _ENTRY_BYTES for kept in group])
        loop = asyncio.get_running_loop()
        job = self._thread.submit(self._writer.write, group, dropped)
        job.add_done_callback(lambda job: loop.call_soon_threadsafe(self._written, job, size))

    def _written(self, job: Future[None], size: int) -> None:
        self._size -= size
        if (error := job.exception()) is not None:  # its message might hold what was said
            log.error("a group of Content was lost by an error of ours: %s", type(error).__name__)
        if self._ended:
            return
        self._scheduled = False
        if self._pending or self._dropped:
            self._schedule()
        elif self._writer.open and self._look is None:
            self._look = asyncio.get_running_loop().call_later(SEGMENT_NS / 1e9, self._look_again)

    def _look_again(self) -> None:
        """Close a segment that came of age."""
        self._look = None
        if not self._scheduled:
            self._scheduled = True
            self._flush()


def spool_in(folder: DataFolder, run: str, settings: Records, clock: Clock, *, early: bool) -> ContentSpool:
    """Where a worker's Content goes: encrypted with the keys that are declared, or with those of the data folder, made at need."""

    def sealer() -> Sealer:
        if settings.content_key is None:
            folder.make_content_key(new_key())
        return Sealer(read_keys(settings.content_key, folder.content_key, os.environ))

    return ContentSpool(ContentWriter(folder.content_spool, run, settings.content_mb, sealer, clock), early=early)
