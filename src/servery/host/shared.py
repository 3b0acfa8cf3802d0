"""Memory that two processes of one user share, to pass on what is too large for a socket to be the quickest way.

It is a file without a name (memfd), so nothing is left when either process is killed. The other process opens it by
its owner's process and descriptor, and sees by the inode whether that is still the same file. Both copy: what is read
stays as it is whatever the other one does afterwards, and the memory can be used again. New memory costs more than a copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

Block = bytes | memoryview


class Shared:
    """One such file, open in this process. `size` is what was written to it here at most."""

    __slots__ = ("_handle", "name", "size")

    def __init__(self, handle: int, name: bytes) -> None:
        self._handle = handle
        self.name = name  # by which another process finds it, while it is open here
        self.size = 0

    @classmethod
    def made(cls) -> Shared:
        """OSError when there is no more memory or no descriptor."""
        handle = os.memfd_create("servery", os.MFD_CLOEXEC)
        return cls(handle, b"%d %d %d" % (os.getpid(), handle, os.fstat(handle).st_ino))

    @classmethod
    def opened(cls, name: bytes) -> Shared:
        """The file that another process calls `name`. OSError or ValueError where it can't be reached."""
        process, handle, inode = map(int, name.split())
        shared = cls(os.open(f"/proc/{process}/fd/{handle}", os.O_RDWR | os.O_CLOEXEC), name)
        if os.fstat(shared._handle).st_ino != inode:
            shared.close()
            raise FileNotFoundError("its owner has closed it")
        return shared

    def write(self, blocks: Sequence[Block], at: int) -> None:
        """Write the blocks, one behind the other. OSError when there is no more memory."""
        for block in blocks:
            left = memoryview(block)
            while left:
                written = os.pwrite(self._handle, left, at)
                left, at = left[written:], at + written
        self.size = max(self.size, at)

    def read(self, at: int, size: int) -> memoryview:
        """So many bytes of it, copied. ValueError when there are fewer."""
        parts: list[bytes] = []
        while size:
            part = os.pread(self._handle, size, at)
            if not part:
                raise ValueError(f"{size} bytes are missing from the memory that is shared")
            parts.append(part)
            size, at = size - len(part), at + len(part)
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


class Spare:
    """Files of one owner that may be used again, up to so many bytes in all: the others are closed."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._free: list[Shared] = []

    def take(self) -> Shared:
        """OSError when there is none to be had."""
        return self._free.pop() if self._free else Shared.made()

    def give(self, shared: Shared) -> None:
        """Nobody else reads or writes it any more."""
        if shared.size + sum([free.size for free in self._free]) <= self._most_bytes:
            self._free.append(shared)
        else:
            shared.close()

    def close(self) -> None:
        for shared in self._free:
            shared.close()
        self._free.clear()
