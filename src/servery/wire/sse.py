"""Server-sent events (WHATWG HTML, 9.2): bytes in pieces of any size to the data of each event, and back. Pure."""

from __future__ import annotations

MOST_BYTES = 4 << 20  # of one event; a model's chunk has some hundred


class Broken(Exception):
    """What arrives is no stream of events within bounds."""


class Events:
    """A stream of events as it arrives."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """The data of each event that has become whole. Names, ids and comments are left out. Broken."""
        *lines, rest = (self._rest + received).split(b"\n")
        if len(rest) > MOST_BYTES:
            raise Broken(f"an event is longer than {MOST_BYTES >> 20} MiB")
        self._rest = rest
        found: list[bytes] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]  # noqa: PLW2901
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                found.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
        if len(self._data) > 1 and sum(map(len, self._data)) > MOST_BYTES:
            raise Broken(f"an event is longer than {MOST_BYTES >> 20} MiB")
        return found


def event(data: bytes, name: str = "") -> bytes:
    """An event whose data is one line."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data
