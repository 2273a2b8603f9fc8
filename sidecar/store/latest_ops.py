"""Tracks which op replaces which: an op may amend others (`amends`), and views count only the latest one.

Every settled op passes through here before anything counts it, live and in a replay. Recent ops are kept in full, so
that a book can retract one when another replaces it. The content follows from the journal alone. It is kept in blocks,
which are also the saved rows; the oldest block is evicted first. At a thousand ops per second each save writes all of
them, so a full block is held as its encoded row and is saved without copying.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import structlog

from sidecar.model import MOST_AMENDED, ObservedOp, amended_ids, amends_too_many
from sidecar.rare_lines import gets_a_line
from sidecar.store.journal_file import record_of

log = structlog.get_logger(__name__)

LATEST: Final = "latest_ops"
"""The table of the saved rows."""

MOST_OPS: Final = 4096
MOST_BYTES: Final = 4 * 2**20
LARGEST: Final = 64 * 1024  # bytes of JSON; of a larger op only the id is kept
BLOCK: Final = 128  # ops per block
BLOCK_BYTES: Final = 256 * 1024  # bytes per block; an op that follows so many starts a new one
_DEAD_BYTES: Final = 4096  # re-encode a block when its replaced ops take more than this, and more than its live ones

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


_NONE: Final = msgspec.Raw(b"null")
_IN_ROW: Final = msgspec.Raw(b"")


class _Known(msgspec.Struct, gc=False, omit_defaults=True):
    """A remembered op: its JSON while it counts, else *by*, the id of the op that replaced it.

    *op* is `_IN_ROW` while its block is packed.
    """

    op_id: str
    op: msgspec.Raw = _NONE
    by: str | None = None


_rows = msgspec.json.Decoder(list[_Known])


class _Block:
    """Ops saved together as row *number*. A packed block holds their JSON only as that row, so nothing is held twice.

    Unpacked again, they are slices of the row, and keep its bytes alive; `_dead` counts those of replaced ops.
    """

    __slots__ = ("_dead", "_is_packed", "_row", "bytes", "known", "number")

    def __init__(self, number: int, known: list[_Known], row: bytes | None = None) -> None:
        self.number = number
        self.known = known
        self.bytes = sum(map(_size, known))
        self._row = row
        self._is_packed = False
        self._dead = 0

    @property
    def has_row(self) -> bool:
        return self._row is not None

    def add(self, known: _Known, size: int) -> None:
        """Append *known*, whose JSON takes *size* bytes."""
        if self._row is not None:
            self.unpack()
            self._row = None
        self.known.append(known)
        self.bytes += size

    def replace(self, known: _Known, by: str) -> int:
        """Mark *known*, a member of this block, as replaced by *by*. Returns the size of its JSON in bytes."""
        self.unpack()
        size, known.op, known.by, self._row = _size(known), _NONE, by, None
        self.bytes -= size
        self._dead += size
        if self._dead > max(_DEAD_BYTES, self.bytes):
            self.pack()
        return size

    def pack(self) -> bytes:
        """Return the encoded row; from now on the ops are held in it alone."""
        if self._row is None:
            self._row = bytes(memoryview(_encode(self.known)))  # copied, because the encoder over-allocates its buffer
            for known in self.known:
                if known.op is not _NONE:
                    known.op = _IN_ROW
            self._is_packed = True
            self._dead = 0
        return self._row

    def unpack(self) -> None:
        """Ensure that each op's JSON is at hand."""
        if self._is_packed and self._row is not None:
            for known, saved in zip(self.known, _rows.decode(self._row), strict=True):
                known.op = saved.op
            self._is_packed = False


class LatestOps:
    """The last `MOST_OPS` ops within `MOST_BYTES`. Used on the event loop's thread only; O(1) per op.

    Counters: *amended* ops that were replaced; *unknown* ids in `amends` that are not remembered (any more); *repeats*
    of an op that the journal had before; *too_many*: ops that name more ids than are read.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Known, _Block]] = {}
        self._blocks: dict[int, _Block] = {}  # by number, the oldest first
        self._newest: _Block | None = None
        self._bytes = 0
        self._dirty: set[int] = set()
        self.amended = 0
        self.unknown = 0
        self.repeats = 0
        self.too_many = 0
        self.unusable = 0

    def __len__(self) -> int:
        return len(self._known)

    def take(self, op: ObservedOp, line: bytes = b"") -> tuple[ObservedOp, ...] | None:
        """Record *op*. Returns the ops it replaces, usually none; None if *op* itself was recorded before.

        *line* is its journal line, if there is one: then the op need not be encoded again.
        An op whose `amends` is not remembered replaces nothing: it counts beside the op it amends.
        """
        op_id = op.op_id
        if op_id is not None and op_id in self._known:
            self.repeats += 1
            return None
        replaced = self._replaced(op, op.amends) if op.amends else ()
        if op_id is not None:
            self._remember(op_id, record_of(line) if line else _encode(op))
        return replaced

    def knows(self, op_id: str) -> bool:
        """Whether the op is remembered; only then can another op replace it."""
        return op_id in self._known

    def later(self, op_id: str | None) -> str | None:
        """The id of the op that replaced *op_id*; None if *op_id* still counts, or is not remembered."""
        found = self._known.get(op_id) if op_id is not None else None
        return found[0].by if found is not None else None

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        for name in sorted((name for name, data in rows.items() if data), key=_number):
            try:
                known = _rows.decode(rows[name])
            except msgspec.MsgspecError as exc:
                self.unusable += 1
                log.warning("saved_row.unreadable", row=name[:100], error=str(exc))
                continue
            block = self._newest = _Block(_number(name), known, rows[name])
            self._blocks[block.number] = block
            self._known.update((each.op_id, (each, block)) for each in known)
            self._bytes += block.bytes

    def prepare(self) -> Iterator[None]:
        """Re-encode the changed blocks, one per step."""
        for number in sorted(self._dirty):
            block = self._blocks.get(number)
            if block is not None and not block.has_row:
                block.pack()
                yield

    def take_dirty(self) -> dict[str, bytes]:
        """The rows changed since the last call; b"" for removed ones."""
        dirty, self._dirty = self._dirty, set()
        return {str(number): self._blocks[number].pack() if number in self._blocks else b"" for number in dirty}

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving these rows failed: mark them dirty again."""
        self._dirty.update(map(_number, keys))

    def _replaced(self, op: ObservedOp, amends: str) -> tuple[ObservedOp, ...]:
        if amends_too_many(amends):
            self.too_many += 1
            if gets_a_line(self.too_many):
                log.warning("amendment.too_many_ids", op_id=op.op_id, read=MOST_AMENDED, ops=self.too_many)
        replaced = []
        for name in amended_ids(op):
            found = self._current(name, op.op_id)
            if found is None or (found[0].op is _NONE and found[0].by is None):  # not remembered, or too large to be
                self.unknown += 1
                continue
            known, block = found
            if known.op is not _NONE:  # else it was replaced through another of the names
                block.unpack()
                replaced.append(_decode(known.op))
                self._bytes -= block.replace(known, op.op_id or "")
                self._dirty.add(block.number)
                self.amended += 1
        return tuple(replaced)

    def _current(self, op_id: str, by: str | None) -> tuple[_Known, _Block] | None:
        """The op that currently counts for the operation of *op_id*, or that *by*, being recorded now, replaced."""
        first = found = self._known.get(op_id)
        while found is not None and found[0].by and found[0].by != by:
            found = self._known.get(found[0].by)
        if first is not None and found is not None and first is not found and first[0].by != found[0].op_id:
            # Path compression: an op amended a thousand times is found in one step.
            first[1].replace(first[0], found[0].op_id)
            self._dirty.add(first[1].number)
        return found

    def _remember(self, op_id: str, encoded: bytes) -> None:
        size = len(encoded)
        if size <= LARGEST:
            known = _Known(op_id, msgspec.Raw(encoded))
        else:
            known, size = _Known(op_id), 0
        block = self._newest
        if block is None or len(block.known) >= BLOCK or block.bytes >= BLOCK_BYTES:
            block = self._begin_block()
        block.add(known, size)
        self._known[op_id] = known, block
        self._dirty.add(block.number)
        self._bytes += size
        while len(self._known) > MOST_OPS or (self._bytes > MOST_BYTES and len(self._blocks) > 1):
            self._forget_block()

    def _begin_block(self) -> _Block:
        full = self._newest
        if full is not None:
            full.pack()
        block = self._newest = _Block(full.number + 1 if full is not None else 1, [])
        self._blocks[block.number] = block
        return block

    def _forget_block(self) -> None:
        number = next(iter(self._blocks))
        block = self._blocks.pop(number)
        for known in block.known:
            del self._known[known.op_id]
        self._bytes -= block.bytes
        self._dirty.add(number)


def kept_ops(row: bytes) -> list[ObservedOp]:
    """The ops that a saved *row* holds in full. Raises msgspec.MsgspecError."""
    return [_decode(known.op) for known in _rows.decode(row) if _size(known)]


def without_ops(row: bytes, is_gone: Callable[[ObservedOp], bool]) -> bytes:
    """A saved *row* without the ops for which *is_gone* is true. Raises msgspec.MsgspecError."""
    kept = _rows.decode(row)
    left = [known for known in kept if not (_size(known) and is_gone(_decode(known.op)))]
    return row if len(left) == len(kept) else _encode(left)


def _size(known: _Known) -> int:
    size = len(memoryview(known.op))
    return size if size > len(b"null") else 0


def _number(key: str) -> int:
    return int(key)
