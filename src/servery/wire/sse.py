"""Server-sent events (WHATWG HTML, 9.2): bytes in pieces of any size to the data of each event, and back. Pure."""

from __future__ import annotations

MOST_BYTES = 4 << 20  # up to the end of an event; a model's chunk has some hundred


class Broken(Exception):
    """What arrives is no stream of events within bounds."""


class Events:
    """A stream of events as it arrives."""

    __slots__ = ("_data", "_rest", "_size")

    def __init__(self) -> None:
        self._rest: bytearray = bytearray()  # of a line that isn't whole
        self._data: list[bytes] = []
        self._size = 0  # that has come since an event was whole

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that has become whole. Names, ids and comments are left out. Broken."""
        self._size += len(received)
        if self._size > MOST_BYTES:
            raise Broken(f"it has no event within {MOST_BYTES >> 20} MiB")
        if self._rest:
            if b"\n" not in received:
                self._rest += received
                return []
            received, self._rest = bytes(self._rest) + received, bytearray()
        *lines, rest = received.split(b"\n")
        self._rest += rest
        found: list[bytes] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]  # noqa: PLW2901
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                found.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
        if found:
            self._size = len(rest)
        return found


def event(data: bytes, name: str = "") -> bytes:
    """An event whose data is one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data
