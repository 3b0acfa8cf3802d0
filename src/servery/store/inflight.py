"""What is under way in one worker, where it survives the worker: a mapped file with a slot for each open Request.

Writing to it is writing to memory. When the worker has died, its shipper closes what is open in it. What a caller could
call it with is bounded: names that repeat are kept once, and a Request that finds no room has no slot.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from servery.terms.money import busy_price
from servery.terms.reasons import Reason
from servery.terms.record import Attempt, Outcome, Record, Role

_SLOTS = 4096
_NAMES_BYTES = 256 * 1024
_SLOT_BYTES = 256
_ATTEMPTS = 4  # of a Request with more, the first three and the last one are kept
_HEAD = struct.Struct("<8sQ")  # magic, bytes of names
_MAGIC = b"servery3"
_OPEN = struct.Struct(
    "<26sqII64sBB"
)  # id, at_ns, caller, route, request id, Attempts, whether it is open: written last
# tier, rows, started (ns since 1970), busy ns or -1 while it runs, reason, pico-dollars beside busy time
_ATTEMPT = struct.Struct("<IIqqIq")
_BUSY = struct.Struct("<qIq")  # the end of an Attempt
_COUNT_AT, _OPEN_AT, _BUSY_AT = _OPEN.size - 2, _OPEN.size - 1, _ATTEMPT.size - _BUSY.size
_FIRST = _HEAD.size + _NAMES_BYTES
_BYTES = _FIRST + (_SLOTS + 1) * _SLOT_BYTES
_NOWHERE = 0  # the slot that nobody reads
_Name = tuple[str | int, ...]
_read_name = msgspec.json.Decoder[_Name](_Name).decode

assert _OPEN.size + _ATTEMPTS * _ATTEMPT.size <= _SLOT_BYTES


class InFlight:
    """Owned by one event loop. Until `open` all slots are slot 0, which is nowhere."""

    def __init__(self, region: str = "") -> None:
        self._region = region
        self._map: mmap.mmap | bytearray = bytearray(_FIRST + _SLOT_BYTES)
        self._free: list[int] = []
        self._names: dict[_Name, int] = {}
        self._used = 0

    def open(self, path: Path) -> None:
        """Take the disk for the table at `path`; OSError. May run beside the event loop, before anything else."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _BYTES)  # or a full disk would kill this process when it writes
            mapped = mmap.mmap(file, _BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)
        self._map, self._used, self._names = mapped, 0, {}
        self._name((self._region,))
        self._free = list(range(_SLOTS, 0, -1))

    def begin(self, record_id: bytes, at_ns: int, caller: tuple[str, str], route: str, request_id: str) -> int:
        """The slot of a Request from now on, until `release`. `caller` is its tenant and key."""
        if not self._free:
            return _NOWHERE
        who, called = self._name(caller), self._name((route,))
        if not (who and called):
            return _NOWHERE
        slot = self._free.pop()
        told = request_id.encode()[:64] if request_id else b""
        _OPEN.pack_into(self._map, _FIRST + slot * _SLOT_BYTES, record_id, at_ns, who, called, told, 0, 1)
        return slot

    def tries(
        self,
        slot: int,
        number: int,
        tier: _Name,
        rows: int,
        started_ns: int,
        before: tuple[int, str, int] | None,
        reserved: int = 0,
    ) -> None:
        """Attempt `number` (from 0) begins. `tier` is its role, tier, Model, Version, pico-dollars an hour and arm, `reserved`
        what it may cost besides.

        `before`: what the Attempt before it was busy for, in ns, the word of its failure, and what it cost besides.
        """
        if slot == _NOWHERE or not (named := self._name(tier)):
            return
        start = _FIRST + slot * _SLOT_BYTES
        place = start + _OPEN.size + min(number, _ATTEMPTS - 1) * _ATTEMPT.size
        if before is not None and number < _ATTEMPTS:
            busy_ns, word, cost = before
            ended = place - _ATTEMPT.size + _BUSY_AT
            _BUSY.pack_into(self._map, ended, busy_ns, self._name((word,)) if word else 0, cost)
        _ATTEMPT.pack_into(self._map, place, named, rows, started_ns, -1, 0, reserved)
        self._map[start + _COUNT_AT] = min(number + 1, _ATTEMPTS)

    def release(self, slots: Sequence[int]) -> None:
        """The Records of these Requests are stored."""
        for slot in slots:
            self._map[_FIRST + slot * _SLOT_BYTES + _OPEN_AT] = 0
        self._free.extend(slots)

    def _name(self, name: _Name) -> int:
        """The number of a name, from 1 on; 0 when there is no room for another one."""
        number = self._names.get(name)
        if number is not None:
            return number
        line = msgspec.json.encode(name) + b"\n"
        if self._used + len(line) > _NAMES_BYTES:
            return 0
        at = _HEAD.size + self._used
        self._map[at : at + len(line)] = line
        self._used += len(line)
        _HEAD.pack_into(self._map, 0, _MAGIC, self._used)
        number = self._names[name] = len(self._names) + 1
        return number


def lost(path: Path, seen_ns: int) -> list[Record]:
    """The Records of the Requests that were open when their worker died, last seen alive at `seen_ns`; OSError.

    What the Attempt that was under way has cost is estimated: as if it had been busy until then.
    """
    content = path.read_bytes()
    if len(content) != _BYTES or content[: len(_MAGIC)] != _MAGIC:
        return []  # it died before it had a name to write
    used = _HEAD.unpack_from(content)[1]
    lines = content[_HEAD.size : _HEAD.size + used].splitlines()
    names = [_read_name(line) for line in lines]
    starts = range(_FIRST + _SLOT_BYTES, _BYTES, _SLOT_BYTES)
    return [_closed(content, start, names, seen_ns) for start in starts if content[start + _OPEN_AT]]


def _closed(content: bytes, start: int, names: Sequence[_Name], seen_ns: int) -> Record:
    fields: tuple[bytes, int, int, int, bytes, int, int] = _OPEN.unpack_from(content, start)
    record_id, at_ns, who, called, told, count, _ = fields
    places = [start + _OPEN.size + number * _ATTEMPT.size for number in range(count)]
    attempts = tuple([_attempt(_ATTEMPT.unpack_from(content, place), names, seen_ns) for place in places])
    tenant, key = names[who - 1]
    return Record(
        record_id,
        at_ns,
        str(tenant),
        str(key),
        str(names[called - 1][0]),
        Outcome.FAILED,
        Reason.WORKER_LOST.word,
        max((attempt.rows for attempt in attempts), default=0),
        max(seen_ns - at_ns, 0),
        sum(attempt.pico_usd for attempt in attempts),
        attempts,
        request_id=told.rstrip(b"\0").decode(errors="ignore"),
        region=str(names[0][0]),
    )


def _attempt(fields: tuple[int, ...], names: Sequence[_Name], seen_ns: int) -> Attempt:
    named, rows, started_ns, busy_ns, reason, besides = fields
    role, tier, model, version, pico_per_hour, arm = names[named - 1]
    running = busy_ns < 0
    word = Reason.WORKER_LOST.word if running else str(names[reason - 1][0]) if reason else ""
    busy_ns = max(seen_ns - started_ns, 0) if running else busy_ns
    price = busy_price(busy_ns, int(pico_per_hour)) + besides
    outcome = Outcome.FAILED if word else Outcome.SERVED
    return Attempt(
        Role(role), str(tier), str(model), str(version), rows, 0, busy_ns, price, outcome, word, estimated=running,
        took_ns=busy_ns, arm=str(arm),
    )  # fmt: skip
