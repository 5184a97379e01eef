"""Memory for envelopes that is used again: what comes new from the system costs as much as sealing into it.

Source: mallopt(3) of glibc, for what the C library does with memory that is freed.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

# One window of a capture fits, or hundreds of small files.
_ROOM_BYTES = 36 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _MAPPED_BYTES = 128 << 20, 32 << 20


class SealingRoom:
    """Room for the envelopes of one chunk after the other; what is not written to takes no memory.

    Not from numpy, which asks for pages of 2 MiB: where those are new, they cost five times as much.
    """

    def __init__(self) -> None:
        """Begin with none."""
        keep_freed_memory()
        self._rooms: list[memoryview] = []
        self._at, self._used = 0, 0

    def offer(self, size_bytes: int) -> memoryview:
        """Offer room; `keep` then says how much of it was needed."""
        while self._at < len(self._rooms):
            left = self._rooms[self._at][self._used :]
            if len(left) >= size_bytes:
                return left
            self._at, self._used = self._at + 1, 0
        self._rooms.append(memoryview(mmap.mmap(-1, max(size_bytes, _ROOM_BYTES))))
        return self._rooms[-1]

    def keep(self, size_bytes: int) -> None:
        """Keep the beginning of what was offered last."""
        self._used += size_bytes

    def clear(self) -> None:
        """Use all of it again: nobody may look at what it held."""
        # Room that was made for a larger value than usual is not held for the next one.
        self._rooms = [room for room in self._rooms if len(room) == _ROOM_BYTES]
        self._at, self._used = 0, 0


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep up to 128 MiB of what is freed, for what is made next, in this process.

    By itself it gives the end of its memory back whenever some MiB are free there, and fetches it again for
    the next chunk's columns: a quarter of a second in an ingest of 300 MB on a virtual machine whose pages
    are dear. Gives whether it will: musl and the library of macOS cannot be told, and nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    # Both, since setting one of them stops the library from moving the other.
    options = ((_TRIM_THRESHOLD, _KEPT_BYTES), (_MMAP_THRESHOLD, _MAPPED_BYTES))
    return set_option is not None and all(set_option(*option) for option in options)
