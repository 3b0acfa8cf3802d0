"""The heads of the audit, in a file of their own that is only ever added to: a line `NUMBER SEAL` for each entry."""

from __future__ import annotations

import os
from pathlib import Path

from servery.terms.audit import BEGINNING, Head

_LINE_BYTES = 128  # no line is longer


class Heads:
    """The file at `path`. It can be made append-only for everybody (`chattr +a`): nothing else is done to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self) -> Head:
        """The last head that was written whole; that of the beginning where there is none. OSError."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 2 * _LINE_BYTES, 0))
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return Head(0, BEGINNING)
        return next((head for line in reversed(lines) if (head := _read(line)) is not None), Head(0, BEGINNING))

    def all(self) -> dict[int, str]:
        """Every seal by its number, of several with one number the first; nothing where the file is missing. OSError.

        A line that a dying machine left half written says nothing: its entry's head was written again.
        """
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        found: dict[int, str] = {}
        for line in lines:
            if (head := _read(line)) is not None:
                found.setdefault(head.number, head.seal)
        return found

    def add(self, *heads: Head) -> None:
        """Write these behind the others, so that they survive a power cut; OSError."""
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            text = "".join(f"{head.number} {head.seal}\n" for head in heads)
            os.write(handle, (b"\n" if torn else b"") + text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(line: bytes) -> Head | None:
    number, _, seal = line.partition(b" ")
    if not (number.isdigit() and len(number) < 19 and len(seal) == 65 and seal.endswith(b"\n")):
        return None
    return Head(int(number), seal[:64].decode("ascii", errors="replace"))
