"""The playbook: every entry with all its versions, and what was decided on it.

Follows from decisions alone: versions (`playbook`) come from the consolidator, from rules and from people's imports,
changes of state (`playbook_change`) from people and from the numbers. Read by the doors, the advisor and the
consolidator. What an entry once was can be seen as of any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model_learning import EntryChange, EntryRow, EntryState, PlaybookEntry

MAX_ENTRIES: Final = 1000
MAX_VERSIONS: Final = 40  # of an entry; `EntryRow.spare` says which goes
MAX_CHANGES: Final = 100

_LEADS_TO: Final[Mapping[str, EntryState]] = {
    "approve": "active",
    "promote": "active",
    "retire": "retired",
    "restore": "candidate",
    "retry": "candidate",
}


class PlaybookBook(KeptBook):
    """At most 1000 entries; the least recently changed goes out, counted. All methods belong to one thread."""

    def __init__(self) -> None:
        self._rows = KeptRows("entry/", EntryRow, MAX_ENTRIES)
        super().__init__(self._rows)
        self._by_endpoint: dict[str, list[EntryRow]] | None = None
        self.overtaken = 0  # changes judged from what had been decided otherwise meanwhile

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, entry: PlaybookEntry) -> None:
        """Take *entry* over, unless this version or a later one is here; what a person brought is a later one then."""
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
        """Let *change* take effect; whether it does.

        One of an entry that is not here has none, nor has one that was judged from what no longer holds.
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
        """The entries for *endpoint*, in an order that does not change by itself."""
        if self._by_endpoint is None:
            self._by_endpoint = {}
            for row in self._rows.rows():
                self._by_endpoint.setdefault(row.latest.endpoint, []).append(row)
            for rows in self._by_endpoint.values():
                rows.sort(key=lambda row: row.latest.playbook_id)
        return self._by_endpoint.get(endpoint, [])

    def as_of(self, at: str) -> list[EntryRow]:
        """What `rows` would have given at the moment *at* (RFC 3339 UTC with milliseconds)."""
        then = [row for each in self.rows() if (row := row_as_of(each, at)) is not None]
        return sorted(then, key=lambda row: (_last_touched(row), row.latest.playbook_id), reverse=True)

    @property
    def evicted(self) -> int:
        """Entries that had to make room."""
        return self._rows.evicted

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore what `take_dirty` gave, in whatever order."""
        super().load(rows)
        self._by_endpoint = None


def row_as_of(row: EntryRow, at: str) -> EntryRow | None:
    """*row* as it was at the moment *at*; None if it was not there yet."""
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
        row.state = "active"  # what people approve and restore needs no trial
    row.changes.append(change)


def _last_touched(row: EntryRow) -> str:
    return max(row.latest.at, row.changes[-1].at if row.changes else "")
