"""A compact table of recent event ids: a 64-bit hash of the id, 32-bit hashes of payload and timestamp, and the age.

Entries lie in blocks in order of arrival; an index of small open-addressing tables finds them. Nothing is allocated
before the first id, whole blocks are freed, and no step touches more than one small table. Blocks are also the rows
in which the entries are saved. `store.duplicates` adds the ids.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

REF_BYTES = 24
_NO_REF = bytes(REF_BYTES)
_HEADER = struct.Struct("=QII")  # number of the first entry, number of entries, 1 if refs follow
_ENTRY_BYTES = 8 + 4 + 4 + 4
_FIRST_SLOTS = 128  # half a MiB in all; up to about 80,000 entries, memory grows by the entries alone
_KEY_BITS = 64
_LOOK_EVERY = 16  # entries between two checks of the oldest entry's age
_REF_ENTRIES = 1 << 14  # only the newest entries keep their span ids: 0.4 MiB


class Seen(NamedTuple):
    """What is stored for an id. *payload* and *stamp* are 32-bit hashes; *ref* is 24 bytes, zeros if dropped."""

    payload: int
    stamp: int
    ref: bytes


class _Block:
    """Entries from number *base* on, by column. *times* are seconds since the epoch."""

    __slots__ = ("base", "ids", "payloads", "refs", "stamps", "times")

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.ids = array("Q", bytes(8 * size))
        self.payloads = array("I", bytes(4 * size))
        self.stamps = array("I", bytes(4 * size))
        self.times = array("I", bytes(4 * size))
        self.refs: bytearray | None = bytearray(REF_BYTES * size)

    def row(self, used: int) -> bytes:
        columns = [column.tobytes() for column in (self.ids, self.payloads, self.stamps, self.times)]
        return b"".join([_HEADER.pack(self.base, used, self.refs is not None), *columns, self.refs or b""])

    @classmethod
    def of(cls, row: bytes, size: int) -> tuple[_Block, int]:
        """Decode a saved *row* into a block and its number of entries. Raises ValueError."""
        if len(row) < _HEADER.size:
            raise ValueError("too short")
        base, used, has_refs = _HEADER.unpack_from(row)
        if len(row) != _HEADER.size + size * (_ENTRY_BYTES + REF_BYTES * has_refs) or used > size or base % size:
            raise ValueError("not a block of this size")
        block, at = cls.__new__(cls), _HEADER.size
        block.base = base
        block.ids, at = array("Q", row[at : at + 8 * size]), at + 8 * size
        block.payloads, at = array("I", row[at : at + 4 * size]), at + 4 * size
        block.stamps, at = array("I", row[at : at + 4 * size]), at + 4 * size
        block.times, at = array("I", row[at : at + 4 * size]), at + 4 * size
        block.refs = bytearray(row[at:]) if has_refs else None
        return block, used


_GONE = _Block(-1, 0)


class SeenIds:
    """The last *capacity* ids, none older than *max_age_s*, by 64-bit key. At most 28 bytes an id.

    *block_bits* and *part_bits* are the base-2 logarithms of a block's entries and of the number of index tables.
    """

    def __init__(
        self, capacity: int = 1_000_000, max_age_s: int = 86_400, *, block_bits: int = 12, part_bits: int = 10
    ) -> None:
        self._capacity = capacity
        self._max_age_s = max_age_s
        self._bits = block_bits
        self._size = 1 << block_bits
        self._shift = _KEY_BITS - part_bits
        self._ref_blocks = max(1, _REF_ENTRIES >> block_bits)
        # One extra block, because both the oldest and the newest may be partly used.
        self._blocks = [_GONE] * (-(-capacity // self._size) + 1)
        self._places = len(self._blocks) << block_bits
        self._index: list[array[int] | None] = [None] * (1 << part_bits)  # a slot holds place + 1, or 0 if empty
        self._indexed = [0] * (1 << part_bits)
        self._head = self._tail = 0  # numbers of the next and of the oldest entry
        self._dirty: set[int] = set()
        self.unusable = 0  # saved rows that could not be read back

    def __len__(self) -> int:
        return self._head - self._tail

    def find(self, key: int, now_s: int) -> Seen | None:
        """What was added under *key*, unless it has expired at *now_s*."""
        index = self._index[key >> self._shift]
        if index is None:
            return None
        mask, slot = len(index) - 1, key & (len(index) - 1)
        while place := index[slot]:
            block, at = self._blocks[place - 1 >> self._bits], (place - 1) & (self._size - 1)
            if block.ids[at] == key:
                if now_s - block.times[at] >= self._max_age_s:
                    return None
                ref = _NO_REF if block.refs is None else bytes(block.refs[REF_BYTES * at : REF_BYTES * (at + 1)])
                return Seen(block.payloads[at], block.stamps[at], ref)
            slot = (slot + 1) & mask
        return None

    def add(self, key: int, payload: int, stamp: int, ref: bytes, now_s: int) -> None:
        """Add an entry under *key*, as of *now_s*; it hides an older one with that key. Evicts the oldest if full."""
        if self._head - self._tail >= self._capacity:
            self._drop_oldest()
        if not self._head % _LOOK_EVERY:
            self._drop_old(now_s)
        at, place = self._head & (self._size - 1), self._head % self._places
        number = place >> self._bits
        block = self._blocks[number]
        if block is _GONE:
            block = self._blocks[number] = _Block(self._head - at, self._size)
            self._forget_refs(self._head >> self._bits)
        block.ids[at] = key
        block.payloads[at] = payload
        block.stamps[at] = stamp
        block.times[at] = min(max(0, now_s), 2**32 - 1)
        if block.refs is not None:
            block.refs[REF_BYTES * at : REF_BYTES * (at + 1)] = ref
        self._link(key, place)
        self._dirty.add(number)
        self._head += 1

    def discard(self, key: int) -> None:
        """Remove *key* from the index, if present. Its entry stays, unreachable, until it is evicted."""
        index = self._index[key >> self._shift]
        if index is None:
            return
        mask, slot = len(index) - 1, key & (len(index) - 1)
        while place := index[slot]:
            if self._key(place - 1) == key:
                self._unlink(key, place - 1)
                return
            slot = (slot + 1) & mask

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore saved rows. Unreadable ones are counted, and their ids are lost."""
        blocks: list[tuple[_Block, int]] = []
        for key, row in rows.items():
            try:
                blocks.append(_Block.of(row, self._size))
            except ValueError as exc:
                self.unusable += 1
                log.error("seen_ids.row_unusable", row=key, why=str(exc))
        blocks.sort(key=lambda found: found[0].base)
        self._head = blocks[-1][0].base + blocks[-1][1] if blocks else 0
        blocks = [found for found in blocks if found[0].base > self._head - self._places]
        self._tail = blocks[0][0].base if blocks else 0
        for block, _ in blocks:
            self._blocks[block.base % self._places >> self._bits] = block
        self._index_all(blocks)
        while len(self) > self._capacity:
            self._drop_oldest()

    def take_dirty(self) -> dict[str, bytes]:
        """The blocks changed since the last call, as rows by place; b"" for freed ones."""
        dirty, self._dirty = self._dirty, set()
        rows = {}
        for number in dirty:
            block = self._blocks[number]
            rows[str(number)] = block.row(min(self._head - block.base, self._size)) if block is not _GONE else b""
        return rows

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving these rows failed: mark them dirty again."""
        self._dirty.update(map(int, keys))

    def _index_all(self, blocks: list[tuple[_Block, int]]) -> None:
        """Fill the empty index from the newest entry to the oldest: for duplicate keys the newer entry wins."""
        slots = _FIRST_SLOTS
        while slots * len(self._index) < 2 * sum(used for _, used in blocks):
            slots *= 2
        index, indexed, shift = self._index, self._indexed, self._shift
        places, bits, last = self._blocks, self._bits, self._size - 1
        for block, used in reversed(blocks):
            place = block.base % self._places + used
            for key in reversed(block.ids[:used]):
                number = key >> shift
                part = index[number]
                if part is None:
                    part = index[number] = array("I", bytes(4 * slots))
                elif indexed[number] * 4 >= len(part) * 3:
                    part = self._grow(number)
                mask = len(part) - 1
                slot = key & mask
                while (there := part[slot]) and places[there - 1 >> bits].ids[there - 1 & last] != key:
                    slot = (slot + 1) & mask
                if not there:
                    part[slot] = place
                    indexed[number] += 1
                place -= 1

    def _key(self, place: int) -> int:
        return self._blocks[place >> self._bits].ids[place & (self._size - 1)]

    def _drop_old(self, now_s: int) -> None:
        for _ in range(2 * _LOOK_EVERY):  # evicts faster than entries arrive, without a long pause
            block = self._blocks[self._tail % self._places >> self._bits]
            if self._tail == self._head:
                return
            if block is not _GONE and now_s - block.times[self._tail & (self._size - 1)] < self._max_age_s:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        place = self._tail % self._places
        block = self._blocks[place >> self._bits]
        if block is _GONE:  # its row was lost: skip the whole block
            self._tail = min(self._head, self._tail + self._size - (self._tail & (self._size - 1)))
            return
        self._unlink(block.ids[self._tail & (self._size - 1)], place)
        self._tail += 1
        if not self._tail & (self._size - 1):
            self._blocks[place >> self._bits] = _GONE
            self._dirty.add(place >> self._bits)

    def _forget_refs(self, newest: int) -> None:
        number = (newest - self._ref_blocks) % len(self._blocks)
        block = self._blocks[number]
        if block.base >> self._bits == newest - self._ref_blocks and block.refs is not None:
            block.refs = None
            self._dirty.add(number)

    def _link(self, key: int, place: int) -> None:
        part = key >> self._shift
        index = self._index[part]
        if index is None or self._indexed[part] * 4 >= len(index) * 3:
            index = self._grow(part)
        mask, slot = len(index) - 1, key & (len(index) - 1)
        blocks, bits, last = self._blocks, self._bits, self._size - 1
        while there := index[slot]:
            if blocks[there - 1 >> bits].ids[there - 1 & last] == key:
                index[slot] = place + 1
                return
            slot = (slot + 1) & mask
        index[slot] = place + 1
        self._indexed[part] += 1

    def _grow(self, part: int) -> array[int]:
        old = self._index[part]
        slots = len(old) * 2 if old is not None else _FIRST_SLOTS
        index = self._index[part] = array("I", bytes(4 * slots))
        for place in old or ():
            if place:
                slot = self._key(place - 1) & (slots - 1)
                while index[slot]:
                    slot = (slot + 1) & (slots - 1)
                index[slot] = place
        return index

    def _unlink(self, key: int, place: int) -> None:
        """Remove *place* from the index, if it is indexed under *key*; shift back entries that probed past it."""
        index = self._index[key >> self._shift]
        if index is None:
            return
        mask, hole = len(index) - 1, key & (len(index) - 1)
        while index[hole] != place + 1:
            if not index[hole]:
                return  # a newer entry has this key
            hole = (hole + 1) & mask
        slot = (hole + 1) & mask
        blocks, bits, last = self._blocks, self._bits, self._size - 1
        while there := index[slot]:
            home = blocks[there - 1 >> bits].ids[there - 1 & last]
            if (slot - home) & mask >= (slot - hole) & mask:
                index[hole], hole = there, slot
            slot = (slot + 1) & mask
        index[hole] = 0
        self._indexed[key >> self._shift] -= 1
