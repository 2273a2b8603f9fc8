"""Which op takes the place of which: an op may amend others (`amends`), and views count the latest word only.

Every settled op passes here before anything counts it, live and in a replay. The ops of last are remembered whole, so
that a book can take one back that another takes the place of. What is remembered follows from the journal alone; it is
kept in blocks, which are the rows that are saved, and the oldest block goes first. At a thousand ops a second each save
has all of them to write: so a full block is held as its row, and saving it copies nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import structlog

from sidecar.model import ObservedOp
from sidecar.store.journal_file import record_of

log = structlog.get_logger(__name__)

LATEST: Final = "latest_ops"
"""The table of the rows."""

MOST_OPS: Final = 4096
MOST_BYTES: Final = 4 * 2**20
LARGEST: Final = 64 * 1024  # bytes of an op's JSON; larger ones are known by their id alone
MOST_AMENDED: Final = 16  # ids that one op may name
BLOCK: Final = 128  # ops
BLOCK_BYTES: Final = 256 * 1024  # of them; an op that comes behind so many begins the next block
_DEAD_BYTES: Final = 4096  # a block holds no more of ops that count no more, unless more of it counts

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


_NONE: Final = msgspec.Raw(b"null")


class _Known(msgspec.Struct, gc=False, omit_defaults=True):
    """An op as it is remembered and saved: itself as JSON while it counts, *by* the id of what took its place."""

    op_id: str
    op: msgspec.Raw = _NONE
    by: str | None = None


_rows = msgspec.json.Decoder(list[_Known])


class _Block:
    """Ops that are saved together, as one row. Closed, their JSON is slices of that row: nothing is held twice.

    A change leaves the slices as they are: of ops that count no more, `_dead` bytes are held until it is closed again.
    """

    __slots__ = ("_dead", "_row", "bytes", "known")

    def __init__(self, known: list[_Known], row: bytes | None = None) -> None:
        self.known = known
        self.bytes = sum(map(_size, known))
        self._row = row
        self._dead = 0

    @property
    def is_closed(self) -> bool:
        return self._row is not None

    @property
    def is_full(self) -> bool:
        return len(self.known) >= BLOCK or self.bytes >= BLOCK_BYTES

    def add(self, known: _Known) -> None:
        self.known.append(known)
        self.bytes += _size(known)
        self._row = None

    def replace(self, known: _Known, by: str) -> int:
        """*known*, one of these, counts no more: *by* does. How many bytes that was."""
        size, known.op, known.by, self._row = _size(known), _NONE, by, None
        self.bytes -= size
        self._dead += size
        if self._dead > max(_DEAD_BYTES, self.bytes):
            self.close()
        return size

    def close(self) -> bytes:
        """The row, of which the ops are slices from now on."""
        if self._row is None:
            self._row = bytes(memoryview(_encode(self.known)))  # a copy: the encoder leaves room behind its own
            for known, saved in zip(self.known, _rows.decode(self._row), strict=True):
                known.op = saved.op
            self._dead = 0
        return self._row


class LatestOps:
    """The last `MOST_OPS` ops within `MOST_BYTES`. Used on the event loop's thread only; O(1) an op.

    The counters: *amended* ops that another took the place of, *unknown* ids that were to be amended and are not, or no
    more, remembered, *repeats* lines of an op that was in the journal before.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Known, int]] = {}  # with the number of its block
        self._blocks: dict[int, _Block] = {}  # oldest first; all but the newest are closed
        self._newest = 0
        self._bytes = 0
        self._dirty: set[int] = set()
        self.amended = 0
        self.unknown = 0
        self.repeats = 0
        self.unusable = 0

    def __len__(self) -> int:
        return len(self._known)

    def take(self, op: ObservedOp, line: bytes = b"") -> tuple[ObservedOp, ...] | None:
        """The ops that count no more since *op* takes their place, mostly none; None if *op* itself was taken before.

        *line* is the journal's, where there is one: the op need not be encoded once more.
        An op that amends what is not remembered takes no op's place: it counts beside it.
        """
        op_id = op.op_id
        if op_id is not None and op_id in self._known:
            self.repeats += 1
            return None
        replaced = self._replaced(op) if op.amends else ()
        if op_id is not None:
            self._remember(op_id, record_of(line) if line else _encode(op))
        return replaced

    def knows(self, op_id: str) -> bool:
        """Whether the op is remembered: only then does one that amends it take its place."""
        return op_id in self._known

    def later(self, op_id: str | None) -> str | None:
        """The id of the op that took the place of *op_id*'s; None if it counts, or is not remembered."""
        found = self._known.get(op_id) if op_id is not None else None
        return found[0].by if found is not None else None

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore what `take_dirty` gave, in whatever order."""
        for name in sorted((name for name, data in rows.items() if data), key=_number):
            try:
                known = _rows.decode(rows[name])
            except msgspec.MsgspecError as exc:
                self.unusable += 1
                log.warning("saved_row.unreadable", row=name[:100], error=str(exc))
                continue
            self._newest = _number(name)
            block = self._blocks[self._newest] = _Block(known, rows[name])
            self._known.update((each.op_id, (each, self._newest)) for each in known)
            self._bytes += block.bytes

    def prepare(self) -> Iterator[None]:
        """Make the rows anew in which ops were amended, one at each step."""
        for number in sorted(self._dirty):
            block = self._blocks.get(number)
            if block is not None and not block.is_closed:
                block.close()
                yield

    def take_dirty(self) -> dict[str, bytes]:
        """Rows that changed since the last call; removed ones as b""."""
        dirty, self._dirty = self._dirty, set()
        return {str(number): self._blocks[number].close() if number in self._blocks else b"" for number in dirty}

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving them failed: give them again next time."""
        self._dirty.update(map(_number, keys))

    def _replaced(self, op: ObservedOp) -> tuple[ObservedOp, ...]:
        replaced = []
        for name in dict.fromkeys((op.amends or "").split(None, MOST_AMENDED)[:MOST_AMENDED]):
            found = self._last_word(name, op.op_id)
            if found is None or (not _size(found[0]) and found[0].by is None):  # not remembered, or too large
                self.unknown += 1
                continue
            known, number = found
            if _size(known):  # else another of the names led here
                replaced.append(_decode(known.op))
                self._bytes -= self._blocks[number].replace(known, op.op_id or "")
                self._dirty.add(number)
                self.amended += 1
        return tuple(replaced)

    def _last_word(self, op_id: str, by: str | None) -> tuple[_Known, int] | None:
        """What counts of the operation that *op_id* was an op of, or did until *by* came, which is taken just now."""
        first = found = self._known.get(op_id)
        while found is not None and found[0].by and found[0].by != by:
            found = self._known.get(found[0].by)
        if first is not None and found is not None and first is not found and first[0].by != found[0].op_id:
            # so that an op amended a thousand times is found in one step
            self._blocks[first[1]].replace(first[0], found[0].op_id)
            self._dirty.add(first[1])
        return found

    def _remember(self, op_id: str, encoded: bytes) -> None:
        size = len(encoded)
        known = _Known(op_id, msgspec.Raw(encoded)) if size <= LARGEST else _Known(op_id)
        block = self._blocks.get(self._newest)
        if block is None or block.is_full:
            if block is not None:
                block.close()
            self._newest += 1
            block = self._blocks[self._newest] = _Block([])
        block.add(known)
        self._known[op_id] = known, self._newest
        self._dirty.add(self._newest)
        if size <= LARGEST:
            self._bytes += size
        while len(self._known) > MOST_OPS or (self._bytes > MOST_BYTES and len(self._blocks) > 1):
            self._forget_block()

    def _forget_block(self) -> None:
        number = next(iter(self._blocks))
        block = self._blocks.pop(number)
        for known in block.known:
            del self._known[known.op_id]
        self._bytes -= block.bytes
        self._dirty.add(number)


def kept_ops(row: bytes) -> list[ObservedOp]:
    """The ops that a saved *row* has whole. Raises msgspec.MsgspecError."""
    return [_decode(known.op) for known in _rows.decode(row) if _size(known)]


def without_ops(row: bytes, is_gone: Callable[[ObservedOp], bool]) -> bytes:
    """A saved *row* without the ops that are gone. Raises msgspec.MsgspecError."""
    kept = _rows.decode(row)
    left = [known for known in kept if not (_size(known) and is_gone(_decode(known.op)))]
    return row if len(left) == len(kept) else _encode(left)


def _size(known: _Known) -> int:
    size = len(memoryview(known.op))
    return size if size > len(b"null") else 0


def _number(key: str) -> int:
    return int(key)
