"""Builds the two journals, with their files and bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from sidecar.data_shares import segment_bytes
from sidecar.model import Decision, ObservedOp
from sidecar.protocols import Clock, JournalFile
from sidecar.settings import Settings
from sidecar.store.commit_log import CommitLog, Downstream
from sidecar.store.decisions import Decisions
from sidecar.store.journal_file import AppendFile
from sidecar.store.retention import BoundedJournal

_encode = msgspec.json.Encoder().encode
_PENDING_BYTES = 32 * 2**20  # bound of a journal's memory while the disk is slow
_SEGMENTS_AN_AGE = 16  # segments per retention period: the granularity of dropping by age


class Journals:
    """`ops.jsonl`, whose records go on to *settled*, and `decisions.jsonl`, whose records go on to *decided*.

    *open_file* opens the file under a journal; tests inject faults there.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        settled: Downstream[ObservedOp],
        decided: Downstream[Decision],
        open_file: Any,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._open_file = open_file
        self.ops: CommitLog[ObservedOp] = self._journal("ops", settled)
        self.decisions: CommitLog[Decision] = self._journal("decisions", decided)
        self.decide = Decisions(self.decisions, clock, self.ops)

    @property
    def gone(self) -> str:
        """Why nothing can be written: a journal's file is not in the folder any more. "" if they are."""
        return self.ops.gone or self.decisions.gone

    def path(self, journal: CommitLog[Any]) -> Path:
        """The active file of *journal*."""
        return Path(self._settings.data_dir) / f"{journal.name}.jsonl"

    def bounded(self, journal: CommitLog[Any]) -> BoundedJournal:
        """*journal* with its share of `OBSERVER_DATA_MAX_BYTES`."""
        share: int = getattr(self._settings.shares, journal.name)
        return BoundedJournal(journal.name, self.path(journal), share, journal.look)

    def _journal(self, name: str, downstream: Any) -> CommitLog[Any]:
        settings = self._settings
        return CommitLog(
            name,
            self._file(name),
            _encode,
            downstream,
            self._clock,
            max_bytes=_PENDING_BYTES,
            sync_every_s=settings.fsync_every_s,
            commit_timeout_s=settings.commit_timeout,
        )

    def _file(self, name: str) -> Callable[[], JournalFile]:
        path, share = Path(self._settings.data_dir) / f"{name}.jsonl", getattr(self._settings.shares, name)
        options: dict[str, Any] = {}
        if self._open_file is AppendFile:  # a test's substitute takes only a path
            age_s = self._settings.retention_s
            options["segment_bytes"] = segment_bytes(share)
            options["segment_age_s"] = age_s / _SEGMENTS_AN_AGE if age_s is not None else None

        def open_journal() -> JournalFile:
            file: JournalFile = self._open_file(path, **options)
            return file

        return open_journal
