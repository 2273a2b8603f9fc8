"""The export cursor in a small file beside the log, written in place after each settled batch.

Two checksummed slots are written in turn, so that a torn write leaves the previous cursor intact. There is no fsync: a
process kill loses nothing, and a power cut repeats a few batches at most. (Writing a new file and renaming it would
cost 15 ms each time on ext4, which flushes a file that replaces another.)
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sidecar.export.pending import Saved
from sidecar.rare_lines import gets_a_line

log = structlog.get_logger(__name__)

SLOT_BYTES: Final = 4096
"""Room for a `Saved` of `MOST_RANGES` ranges with the longest offsets."""
_SLOTS: Final = 2
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class _Slot(msgspec.Struct):
    """The content of one slot; the slot with the highest *number* is the newest."""

    number: int
    saved: Saved


class CursorFile:
    """Saves and loads the cursor. If the disk fails, a crash repeats exports; no span is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._last: Saved | None = None
        self._readable = True
        self.failures = 0

    def load(self) -> Saved | None:
        """The newest saved cursor; None if there is none. An unreadable file counts as offset 0: export all again."""
        try:
            data = self._path.read_bytes()
            slots = [slot for at in range(_SLOTS) if (slot := _read(data[at * SLOT_BYTES : (at + 1) * SLOT_BYTES]))]
            if not slots:
                # The format of older versions: JSON alone, to which a torn first slot adds a gap of NULs.
                return msgspec.json.decode(data[:SLOT_BYTES].rstrip(b"\0"), type=Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            log.error("export.cursor_unreadable", path=str(self._path), error=str(exc))
            self._readable = False
            return Saved(0)
        last = max(slots, key=lambda slot: slot.number)
        self._number = last.number
        return last.saved

    def save(self, saved: Saved) -> None:
        """Write *saved* into the older slot, if it differs from the last saved. Never raises."""
        if saved == self._last:
            return
        self._number += 1
        try:
            anew = 0 if self._readable else os.O_TRUNC  # an unreadable slot may have a higher number
            _write(self._path, anew, _slot(_Slot(self._number, saved)), self._number % _SLOTS * SLOT_BYTES)
        except OSError as exc:
            self._number -= 1  # the last saved slot is still valid
            self.failures += 1
            if gets_a_line(self.failures):
                log.warning("export.cursor_not_saved", path=str(self._path), error=str(exc), failures=self.failures)
            return
        self._last, self._readable = saved, True


def _write(path: Path, flags: int, slot: bytes, offset: int) -> None:
    file = os.open(path, _FLAGS | flags, 0o600)
    try:
        written = os.pwrite(file, slot, offset)
    finally:
        os.close(file)
    if written < len(slot):
        raise OSError(f"{written} of {len(slot)} bytes were written")


def _slot(what: _Slot) -> bytes:
    said = msgspec.json.encode(what)
    return (b"%08x %b" % (zlib.crc32(said), said)).ljust(SLOT_BYTES - 1) + b"\n"


def _read(slot: bytes) -> _Slot | None:
    """The content of *slot*; None if it was never written, or is torn."""
    checksum, _, said = slot.strip(b" \n\0").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(said):
        return None
    return msgspec.json.decode(said, type=_Slot)
