"""A bounded in-memory table of rows by key that tracks which rows have to be saved.

The books of every room keep their state in such tables, often several that are saved as one (`KeptBook`). The pipeline
saves what `take_dirty` returns and calls `load` at start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T", bound=msgspec.Struct)
ROWS_A_STEP: Final = 40  # both bounds: about half a millisecond of encoding
BYTES_A_STEP: Final = 64 * 1024


class SavedRow(msgspec.Struct, Generic[T]):
    """A saved row with its recency: the higher *n*, the more recent."""

    n: int
    row: T


class KeptRows(Generic[T]):
    """At most *most* rows; the least recently touched is evicted first, also across restarts, and counted in `evicted`.

    Saved keys begin with *prefix*. Used on the event loop's thread only.
    """

    def __init__(self, prefix: str, row_type: type[T], most: int) -> None:
        self._prefix = prefix
        self._most = most
        self._decode = msgspec.json.Decoder(SavedRow[row_type]).decode  # type: ignore[valid-type]  # it is, at run time
        self._encode = msgspec.json.Encoder().encode
        self._rows: OrderedDict[str, T] = OrderedDict()
        self._places: dict[str, int] = {}
        self._last_place = 0
        self._dirty: set[str] = set()
        self._saved: set[str] = set()  # keys that a save may have written: only their removal must be saved
        self._newest: str | None = None
        self._encoded: dict[str, bytes] = {}  # rows encoded ahead of the save, unchanged since then
        self.evicted = 0
        self.unusable = 0  # rows that could not be read or written

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> T | None:
        """The row of *key*, without touching it."""
        return self._rows.get(key)

    def touch(self, key: str) -> T | None:
        """The row of *key*, marked as most recent and dirty. O(1)."""
        row = self._rows.get(key)
        if row is not None:
            if key != self._newest:  # most ops hit the same row as the one before
                self._place_last(key)
            self._dirty.add(key)
            if self._encoded:
                self._encoded.pop(key, None)
        return row

    def changed(self, key: str) -> None:
        """Mark the row of *key* dirty without making it more recent."""
        if key in self._rows:
            self._dirty.add(key)
            self._encoded.pop(key, None)

    def add(self, key: str, row: T) -> None:
        """Add *row* as the most recent; evicts the oldest if full."""
        self._rows[key] = row
        self._encoded.pop(key, None)
        self._place_last(key)
        self._dirty.add(key)
        self._make_room()

    def remove(self, key: str) -> T | None:
        """Remove and return the row of *key*; None if there is none."""
        row = self._rows.pop(key, None)
        if row is not None:
            del self._places[key]
            self._encoded.pop(key, None)
            self._forget(key)
            self._newest = next(reversed(self._rows), None)  # the same state as after a restart
            self._last_place = self._places[self._newest] if self._newest is not None else 0
        return row

    def items(self) -> list[tuple[str, T]]:
        """A copy of rows with keys, least recent first."""
        return list(self._rows.items())

    def evict(self) -> T | None:
        """If the next `add` would evict a row, evict it now. Returns it, so that the caller can settle what it left."""
        if len(self._rows) < self._most:
            return None
        row = next(iter(self._rows.values()))
        self._evict()
        return row

    def rows(self) -> list[T]:
        """A copy of the rows, least recent first."""
        return list(self._rows.values())

    def last(self, most: int) -> list[T]:
        """The *most* most recent rows, the most recent first."""
        return list(islice(reversed(self._rows.values()), most))

    def load(self, rows: Mapping[str, bytes]) -> list[str]:
        """Restore saved *rows*, in any order. Returns the keys restored; rows with other prefixes are ignored.

        An unreadable row is logged, counted and skipped; a row that is already in the table stays.
        """
        found: list[tuple[int, str, T]] = []
        for name, data in rows.items():
            if not name.startswith(self._prefix) or not data:
                continue
            key = name[len(self._prefix) :]
            try:
                saved = self._decode(data)
                found.append((saved.n, key, saved.row))
            except msgspec.MsgspecError as exc:
                self.unusable += 1
                log.warning("saved_row.unreadable", row=name[:100], error=str(exc))
        for place, key, row in sorted(found, key=lambda each: each[:2]):
            self._saved.add(key)
            if key not in self._rows:
                self._rows[key], self._places[key] = row, place
                self._last_place = max(self._last_place, place)
        self._newest = next(reversed(self._rows), None)
        self._make_room()
        return [key for _, key, _ in found if key in self._rows]

    def prepare(self) -> Iterator[None]:
        """Encode changed rows ahead of `take_dirty`, in steps, so that little is left for it to do.

        A step ends after `ROWS_A_STEP` rows, or with the row that reaches `BYTES_A_STEP`. It yields after each full
        step, and not for a last partial one. Rows that change meanwhile are left for the next call.
        """
        rows = size = 0
        for key in self._dirty - self._encoded.keys():
            row = self._rows.get(key)
            if row is None or key in self._encoded:
                continue
            with suppress(Exception):  # `take_dirty` meets the error again and reports it
                encoded = self._encoded[key] = self._encode(SavedRow(self._places[key], row))
                size += len(encoded)
            rows += 1
            if rows >= ROWS_A_STEP or size >= BYTES_A_STEP:
                yield
                rows = size = 0

    def take_dirty(self) -> dict[str, bytes]:
        """The rows changed since the last call, as JSON; b"" for removed ones."""
        taken: dict[str, bytes] = {}
        dirty, self._dirty = self._dirty, set()
        encoded, self._encoded = self._encoded, {}
        for key in dirty:
            row = self._rows.get(key)
            if row is None:
                taken[self._prefix + key] = b""
                self._saved.discard(key)
                continue
            try:
                taken[self._prefix + key] = encoded.get(key) or self._encode(SavedRow(self._places[key], row))
                self._saved.add(key)
            except Exception:  # one poison row must not keep the others from being saved
                self.unusable += 1
                log.exception("saved_row.unwritable", row=key[:100])
        return taken

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving *keys* (as from `take_dirty`) failed: mark them dirty again. Other prefixes are ignored."""
        for name in keys:
            if name.startswith(self._prefix):
                key = name[len(self._prefix) :]
                self._dirty.add(key)
                self._saved.add(key)

    def _place_last(self, key: str) -> None:
        self._rows.move_to_end(key)
        self._last_place += 1
        self._places[key] = self._last_place
        self._newest = key

    def _make_room(self) -> None:
        while len(self._rows) > self._most:
            self._evict()

    def _evict(self) -> None:
        key, _ = self._rows.popitem(last=False)
        del self._places[key]
        self.evicted += 1
        self._forget(key)

    def _forget(self, key: str) -> None:
        """The row of *key* was removed: if it may be saved, its removal must be saved too."""
        if key in self._saved:
            self._dirty.add(key)
        else:
            self._dirty.discard(key)


class Saved(Protocol):
    """State derived from the journals and kept as rows."""

    def load(self, rows: Mapping[str, bytes]) -> object:
        """Restore the rows that `take_dirty` returned, in any order."""
        ...

    def prepare(self) -> Iterator[None]:
        """Do most of `take_dirty`'s work ahead of it, in small steps."""
        ...

    def take_dirty(self) -> dict[str, bytes]:
        """The rows changed since the last call, as JSON by key; b"" for removed ones."""
        ...

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving *keys* failed: `take_dirty` returns them again."""
        ...

    @property
    def unusable(self) -> int:
        """The number of rows that could not be read or saved."""
        ...


class KeptBook:
    """Base of books whose state is the tables *kept*, each with its own prefix: implements `Saved` over all of them."""

    def __init__(self, *kept: Saved) -> None:
        self._kept = kept

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        for each in self._kept:
            each.load(rows)

    def prepare(self) -> Iterator[None]:
        """Do most of `take_dirty`'s work ahead of it, in small steps."""
        for each in self._kept:
            yield from each.prepare()

    def take_dirty(self) -> dict[str, bytes]:
        """The rows changed since the last call, as JSON by key; b"" for removed ones."""
        return {key: row for each in self._kept for key, row in each.take_dirty().items()}

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving *keys* failed: `take_dirty` returns them again."""
        names = list(keys)
        for each in self._kept:
            each.put_back(names)

    @property
    def unusable(self) -> int:
        """The number of rows that could not be read or saved."""
        return sum(each.unusable for each in self._kept)
