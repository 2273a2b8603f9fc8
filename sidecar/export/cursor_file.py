"""How far an export has come, in a small file beside the log: written in place after each batch that was settled.

Two slots take turns, each with a checksum, so that one write that was cut short leaves the one before. It is not forced
to disk: a kill of the process loses nothing of it, and a power cut repeats some batches at most. (A file that is
replaced instead costs an ext4 disk 15 ms each time: the file system writes out what takes another's name.)
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

import msgspec
import structlog

from sidecar.export.pending import Saved

log = structlog.get_logger(__name__)

SLOT_BYTES: Final = 4096
"""`MOST_RANGES` of the longest offsets take less."""
_SLOTS: Final = 2
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


class _Slot(msgspec.Struct):
    """What a slot says; the one with the highest *number* was written last."""

    number: int
    saved: Saved


class CursorFile:
    """`save` writes, `load` reads. A disk that takes no cursor costs repetitions after a crash, no spans."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._last: Saved | None = None
        self._readable = True
        self.failures = 0

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was. What cannot be read is as good as the log's beginning."""
        try:
            data = self._path.read_bytes()
            slots = [slot for at in range(_SLOTS) if (slot := _read(data[at * SLOT_BYTES : (at + 1) * SLOT_BYTES]))]
            if not slots:
                return msgspec.json.decode(data, type=Saved)  # as older versions wrote it
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
        """Write *saved* over the last but one, if it is another than the last one. Never raises."""
        if saved == self._last:
            return
        self._number += 1
        try:
            anew = 0 if self._readable else os.O_TRUNC  # what could not be read may have the higher number
            _write(self._path, anew, _slot(_Slot(self._number, saved)), self._number % _SLOTS * SLOT_BYTES)
        except OSError as exc:
            self._number -= 1  # the last one stays as it is
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …: not one line each
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
    """What *slot* says; None where it was never written, or not whole."""
    checksum, _, said = slot.strip(b" \n\0").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(said):
        return None
    return msgspec.json.decode(said, type=_Slot)
