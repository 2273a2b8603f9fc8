"""The file under a journal: appended to by one writer, mended at start, never left with half a line.

A record is a JSON object on a line of its own. It ends in a `crc` member, the CRC-32 (8 hex digits) of the object's
bytes before that member was put in, so that a damaged record is noticed.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import structlog

from sidecar.errors import StartError

log = structlog.get_logger(__name__)

_CRC_TAIL = len(b',"crc":"00000000"}')
_BLOCK = 1 << 16


def sealed(record: bytes) -> bytes:
    """*record*, a non-empty JSON object, as a journal line with its checksum."""
    return b'%b,"crc":"%08x"}\n' % (record[:-1], zlib.crc32(record))


def opened(line: bytes) -> bytes | None:
    """The JSON object of a journal *line* (without its line feed), or None if its checksum does not fit.

    Lines without a checksum, such as those of older journals, are taken as they are.
    """
    if line[-_CRC_TAIL : -_CRC_TAIL + 8] != b',"crc":"':
        return line if line[:1] == b"{" and line[-1:] == b"}" else None
    record = line[:-_CRC_TAIL] + b"}"
    return record if line[-10:-2] == b"%08x" % zlib.crc32(record) else None


class AppendFile:
    """Whole appends to one file: what a failed write left is cut off again at once, or else before the next one."""

    def __init__(self, path: Path) -> None:
        """Open, creating it with mode 0600, and mend a torn last line. Raises StartError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self.size = _prepared(self._fd, path)
        except OSError as exc:
            raise StartError(
                f"{path} cannot be opened for appending",
                exc.strerror or str(exc),
                "Make the folder writable, or choose another with OBSERVER_DATA_DIR",
            ) from exc
        self._clean = True

    def append(self, data: bytes) -> None:
        """Write *data* whole, or nothing of it. Raises OSError."""
        self._cut_off()
        self._clean = False
        view = memoryview(data)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError:
            with contextlib.suppress(OSError):  # the next append tries again, and fails if it cannot
                self._cut_off()
            raise
        self.size += len(data)
        self._clean = True

    def sync(self) -> None:
        """Force the data to the device. Raises OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Cut off what a failed write left, and close."""
        try:
            self._cut_off()
        finally:
            os.close(self._fd)

    def _write(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _cut_off(self) -> None:
        if not self._clean:
            os.ftruncate(self._fd, self.size)
            self._clean = True


def _prepared(fd: int, path: Path) -> int:
    try:
        with contextlib.suppress(PermissionError):  # another user's file that we may write to all the same
            os.fchmod(fd, 0o600)
        return _mended(fd, path)
    except OSError:
        os.close(fd)
        raise


def _mended(fd: int, path: Path) -> int:
    """Size after cutting a last line without line feed, which was never acknowledged; it is kept aside."""
    size = os.fstat(fd).st_size
    keep = size
    while keep:
        block_start = max(0, keep - _BLOCK)
        block = os.pread(fd, keep - block_start, block_start)
        at = block.rfind(b"\n")
        if at >= 0:
            keep = block_start + at + 1
            break
        keep = block_start
    if keep < size:
        kept = _kept_aside(os.pread(fd, size - keep, keep), path.with_suffix(".damaged"))
        os.ftruncate(fd, keep)
        log.warning("journal.tail_mended", path=str(path), torn_bytes=size - keep, kept_aside=kept)
    return keep


def _kept_aside(torn: bytes, path: Path) -> bool:
    """A disk that tore a line may be full still: that must not keep us from starting."""
    try:
        aside = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        return os.write(aside, torn + b"\n") == len(torn) + 1
    except OSError:
        return False
    finally:
        os.close(aside)
