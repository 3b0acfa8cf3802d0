"""A small file whose disk is taken in advance, so that counts and money can be written when nothing else can.

Two halves are overwritten in turn, each with its turn, length and checksum: a write that tears leaves the other half.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

HALF_BYTES = 128 * 1024
_HEAD = struct.Struct("<QII")  # turn, length, CRC-32 of turn, length and content


def _checksum(turn: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack("<QI", turn, len(content))))


class Reserve:
    """The reserve of one run, written by its worker alone. OSError when its disk can't be taken or written."""

    capacity = HALF_BYTES - _HEAD.size

    def __init__(self, path: Path, sync: bool) -> None:
        self._sync = sync
        self._turn = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self._file, 0, 2 * HALF_BYTES)
        except OSError:
            os.close(self._file)
            path.unlink()
            raise

    def write(self, content: bytes) -> None:
        """Keep `content` (at most `capacity` bytes) in place of what was kept before."""
        turn = self._turn + 1
        block = _HEAD.pack(turn, len(content), _checksum(turn, content)) + content
        at = turn % 2 * HALF_BYTES
        if (written := os.pwrite(self._file, block, at)) != len(block):
            raise OSError(f"only {written} of {len(block)} bytes of the spool's reserve were written")
        if self._sync:
            os.fdatasync(self._file)
        self._turn = turn

    def close(self) -> None:
        os.close(self._file)


def read(path: Path) -> bytes:
    """What the reserve at `path` keeps; b"" when it keeps nothing or was never written whole."""
    try:
        halves = path.read_bytes()
    except FileNotFoundError:
        return b""
    newest, kept = 0, b""
    for start in (0, HALF_BYTES):
        half = halves[start : start + HALF_BYTES]
        if len(half) < _HEAD.size:
            continue
        turn, length, checksum = _HEAD.unpack_from(half)
        content = half[_HEAD.size : _HEAD.size + length]
        if turn > newest and len(content) == length and checksum == _checksum(turn, content):
            newest, kept = turn, content
    return kept
