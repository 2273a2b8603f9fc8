"""How far an export has come, in a small file beside the log: replaced whole, after each batch that was settled.

It is not forced to disk: a kill of the process loses nothing of it, and a power cut repeats some batches at most.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog

from sidecar.export.pending import Saved

log = structlog.get_logger(__name__)

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class CursorFile:
    """`save` replaces, `load` reads. A disk that takes no cursor costs repetitions after a crash, no spans."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_suffix(".new")
        self._last: Saved | None = None
        self.failures = 0

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was. What cannot be read is as good as the log's beginning."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Saved)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            log.error("export.cursor_unreadable", path=str(self._path), error=str(exc))
            return Saved(0)

    def save(self, saved: Saved) -> None:
        """Put *saved* in the file's place, if it is another than the last one. Never raises."""
        if saved == self._last:
            return
        try:
            with os.fdopen(os.open(self._draft, _FLAGS, 0o600), "wb") as draft:  # it writes on where a write is short
                draft.write(msgspec.json.encode(saved))
            self._draft.replace(self._path)
        except OSError as exc:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …: not one line each
                log.warning("export.cursor_not_saved", path=str(self._path), error=str(exc), failures=self.failures)
            return
        self._last = saved
