"""The playbook: every entry with all its versions and the decisions on it.

Derived from decisions alone: versions (`playbook`) come from the consolidator, from rules and from people's imports;
state changes (`playbook_change`) come from people and from the measured effect. Read by the doors, the advisor and the
consolidator. The state of an entry can be shown as of any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model_learning import EntryChange, EntryRow, EntryState, PlaybookEntry

MAX_ENTRIES: Final = 1000
MAX_VERSIONS: Final = 40  # per entry; `EntryRow.spare` chooses the one to evict
MAX_CHANGES: Final = 100

_LEADS_TO: Final[Mapping[str, EntryState]] = {
    "approve": "active",
    "promote": "active",
    "retire": "retired",
    "restore": "candidate",
    "retry": "candidate",
}


class PlaybookBook(KeptBook):
    """Keeps at most 1000 entries; the least recently changed is evicted and counted. All methods are for one thread."""

    def __init__(self) -> None:
        self._rows = KeptRows("entry/", EntryRow, MAX_ENTRIES)
        super().__init__(self._rows)
        self._by_endpoint: dict[str, list[EntryRow]] | None = None
        self.overtaken = 0  # changes voided by an earlier decision

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, entry: PlaybookEntry) -> None:
        """Add *entry*, unless this version or a later one is here. An imported entry becomes a later version."""
        row = self._rows.touch(entry.playbook_id)
        if row is not None and entry.author == "import" and row.latest.author != "import":
            entry = replace(entry, version=max(entry.version, row.latest.version + 1))
        if row is None:
            self._rows.add(entry.playbook_id, EntryRow(versions=[entry]))
            self._by_endpoint = None
        elif row.latest.version < entry.version:
            row.versions.append(entry)
            if len(row.versions) > MAX_VERSIONS:
                del row.versions[row.spare]
                row.forgotten += 1

    def change(self, change: EntryChange) -> bool:
        """Apply *change*; returns whether it took effect.

        It has no effect if its entry is not here, or if another decision came after the one it was judged from.
        """
        row = self._rows.get(change.playbook_id)
        if row is None:
            return False
        if change.judged_from not in (None, row.decided):
            self.overtaken += 1
            return False
        self._rows.touch(change.playbook_id)
        _apply(row, change)
        row.decided += 1
        if len(row.changes) > MAX_CHANGES:
            del row.changes[1]
            row.forgotten += 1
        return True

    def get(self, playbook_id: str) -> EntryRow | None:
        """The entry as it is now."""
        return self._rows.get(playbook_id)

    def entry(self, playbook_id: str) -> PlaybookEntry | None:
        """The latest version of the entry."""
        row = self._rows.get(playbook_id)
        return row.latest if row is not None else None

    def rows(self) -> list[EntryRow]:
        """All entries, the most recently changed first."""
        return self._rows.rows()[::-1]

    def at(self, endpoint: str) -> list[EntryRow]:
        """The entries for *endpoint*, in a stable order (by id)."""
        if self._by_endpoint is None:
            self._by_endpoint = {}
            for row in self._rows.rows():
                self._by_endpoint.setdefault(row.latest.endpoint, []).append(row)
            for rows in self._by_endpoint.values():
                rows.sort(key=lambda row: row.latest.playbook_id)
        return self._by_endpoint.get(endpoint, [])

    def as_of(self, at: str) -> list[EntryRow]:
        """The result of `rows` at the time *at* (RFC 3339 UTC with milliseconds)."""
        then = [row for each in self.rows() if (row := row_as_of(each, at)) is not None]
        return sorted(then, key=lambda row: (_last_touched(row), row.latest.playbook_id), reverse=True)

    @property
    def evicted(self) -> int:
        """The number of entries evicted for room."""
        return self._rows.evicted

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        super().load(rows)
        self._by_endpoint = None


def row_as_of(row: EntryRow, at: str) -> EntryRow | None:
    """*row* as it was at the time *at*; None if it did not exist yet."""
    versions = [entry for entry in row.versions if entry.at <= at]
    if not versions:
        return None
    then = replace(row, versions=versions, state="candidate", approved=0, changes=[])
    for change in row.changes:
        if change.at <= at:
            _apply(then, change)
    return then


def _apply(row: EntryRow, change: EntryChange) -> None:
    row.state = _LEADS_TO[change.action]
    if change.action == "approve":
        row.approved = change.version
    elif change.action == "restore" and change.by == "person" and row.approved:
        row.state = "active"  # an entry that people approved and restored needs no trial
    row.changes.append(change)


def _last_touched(row: EntryRow) -> str:
    return max(row.latest.at, row.changes[-1].at if row.changes else "")
