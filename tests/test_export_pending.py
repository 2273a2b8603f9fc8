"""Which parts of a log are still to be exported: nothing twice, nothing forgotten, whatever happens in between."""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.export.cursor_file import SLOT_BYTES, CursorFile
from sidecar.export.pending import MOST_RANGES, Pending, Saved

_STEPS = st.lists(
    st.tuples(st.sampled_from(["grow", "send", "refuse", "split", "let_go", "restart"]), st.integers(1, 20)),
    max_size=60,
)


class World:
    """A log, its export and its retention, with what became of each offset."""

    def __init__(self) -> None:
        self.pending = Pending(0)
        self.end = 0
        self.floor = 0
        self.sent: list[int] = []
        self.evicted: list[int] = []

    def grow(self, amount: int) -> None:
        self.end += amount

    def split(self, _amount: int) -> None:
        self.pending.split(self.end)

    def let_go(self, amount: int) -> None:
        self.floor = max(self.floor, min(self.end, self.floor + amount))
        for gone in self.pending.let_go(self.floor, self.end):
            self.evicted += range(*gone)

    def restart(self, _amount: int) -> None:
        kept = msgspec.json.decode(msgspec.json.encode(self.pending.saved()), type=Saved)
        self.pending = Pending.resumed(kept, self.end)
        self.pending.let_go(self.floor, self.end)

    def send(self, amount: int, *, taken: bool = True) -> None:
        piece = self.pending.next(self.end)
        if piece is None:
            return
        start, upto = piece[0], min(piece[1], piece[0] + amount)
        middle = (start + upto) // 2
        self.pending.sending(start, upto)
        self.pending.settled(middle)
        self.sent += range(start, upto if taken else middle)
        if taken:
            self.pending.settled(upto)
            return
        self.let_go(max(0, start + 1 - self.floor))  # retention comes while the rest is on its way
        ends = list(range(middle + 1, upto + 1))
        lost = self.pending.given_back(ends)
        self.evicted += [offset - 1 for offset in ends[:lost]]

    def refuse(self, amount: int) -> None:
        self.send(amount, taken=False)


@given(_STEPS)
def test_each_record_is_sent_or_evicted_once(steps: list[tuple[str, int]]) -> None:
    """However sending, refusals, splits, retention and restarts are mixed, each offset has one end."""
    world = World()
    for step, amount in steps:
        getattr(world, step)(amount)
    left = [offset for piece in world.pending.pieces(world.end) for offset in range(*piece)]
    assert sorted(world.sent + world.evicted + left) == list(range(world.end))
    assert world.pending.size(world.end) == len(left)
    assert world.pending.first <= min(left, default=world.end)


def test_fresh_records_take_turns_with_the_backlog() -> None:
    """After an outage neither waits for the other; without one the log is read in order."""
    pending = Pending(0)
    assert [pending.next(10), pending.next(10)] == [(0, 10), (0, 10)]
    pending.split(10)
    assert [pending.next(10), pending.next(10)] == [(0, 10), (0, 10)]
    assert {pending.next(12), pending.next(12)} == {(10, 12), (0, 10)}


def test_the_number_of_ranges_is_bounded() -> None:
    """Beyond the bound the newest one only grows."""
    pending = Pending(0)
    for end in range(1, 3 * MOST_RANGES):
        pending.split(end)
    assert len(pending.saved().ranges) == MOST_RANGES
    assert pending.size(1000) == 1000
    assert Pending.resumed(pending.saved(), 1000).saved().ranges == [(0, 1000)]


def test_a_log_that_became_shorter_is_gone_on_with() -> None:
    """What the cursor names beyond its end is not there; what comes is exported."""
    pending = Pending.resumed(Saved(90, [(10, 20), (50, 60)]), 55)
    assert pending.pieces(70) == [(10, 20), (50, 55), (55, 70)]


def test_the_cursor_survives_and_says_when_it_cannot_be_read(tmp_path: Path) -> None:
    """No file: nothing was exported before. A damaged one: rather all of the log again than nothing."""
    file = CursorFile(tmp_path / "export.cursor.json")
    assert file.load() is None
    file.save(Saved(7, [(1, 2)]))
    assert file.load() == Saved(7, [(1, 2)])
    assert [path.name for path in tmp_path.iterdir()] == ["export.cursor.json"]
    (tmp_path / "export.cursor.json").write_bytes(b'{"live":')
    assert file.load() == Saved(0)
    file.save(Saved(3))
    assert CursorFile(tmp_path / "export.cursor.json").load() == Saved(3)
    gone = CursorFile(tmp_path / "missing" / "c.json")
    gone.save(Saved(1))
    assert gone.failures == 1


def test_a_cursor_that_was_cut_short_while_it_was_written_is_the_one_before(tmp_path: Path) -> None:
    """Wherever the write ends: the other slot is whole. The one after it goes into the slot that is not."""
    path = tmp_path / "cursor.json"
    for number in range(1, 6):
        file = CursorFile(path)
        file.load()
        file.save(Saved(10 * number, [(number, 2 * number)]))
    whole = path.read_bytes()
    newest = 5 % 2 * SLOT_BYTES
    for cut in (0, 1, 9, 20, 45):
        path.write_bytes(whole[:newest] + whole[newest : newest + cut] + b"x" * (len(whole) - newest - cut))
        file = CursorFile(path)
        assert file.load() == Saved(40, [(4, 8)])
        file.save(Saved(60))
        assert CursorFile(path).load() == Saved(60)


def test_the_cursor_of_an_older_version_is_gone_on_from(tmp_path: Path) -> None:
    """It was one JSON object; the first save makes it another file, from which older readers begin anew."""
    path = tmp_path / "cursor.json"
    path.write_bytes(b'{"live":12,"ranges":[[1,5]]}')
    file = CursorFile(path)
    assert file.load() == Saved(12, [(1, 5)])
    file.save(Saved(13))
    whole = path.read_bytes()
    assert CursorFile(path).load() == Saved(13)
    for cut in (0, 1, 20, 45):
        path.write_bytes(whole[: SLOT_BYTES + cut] + bytes(SLOT_BYTES - cut))
        assert CursorFile(path).load() == Saved(12, [(1, 5)])


def test_a_cursor_of_as_many_ranges_as_there_can_be_fits_its_slot(tmp_path: Path) -> None:
    """Offsets of eighteen digits, which no disk holds."""
    path, far = tmp_path / "cursor.json", 10**17
    most = Saved(9 * far, [(far + 2 * number, far + 2 * number + 1) for number in range(MOST_RANGES)])
    for saved in (most, Saved(9 * far + 1, most.ranges)):
        file = CursorFile(path)
        file.load()
        file.save(saved)
        assert CursorFile(path).load() == saved
    assert path.stat().st_size == 2 * SLOT_BYTES


def test_a_save_that_failed_leaves_the_last_cursor_its_slot(tmp_path: Path) -> None:
    """The next save takes the slot of the failed one; torn, it still leaves the cursor before."""
    path, away = tmp_path / "data" / "cursor.json", tmp_path / "away"
    path.parent.mkdir()
    file = CursorFile(path)
    file.save(Saved(10))
    path.parent.rename(away)
    file.save(Saved(20))
    assert file.failures == 1
    away.rename(path.parent)
    file.save(Saved(30))
    assert CursorFile(path).load() == Saved(30)
    path.write_bytes(b"x" * SLOT_BYTES + path.read_bytes()[SLOT_BYTES:])
    assert CursorFile(path).load() == Saved(10)


def test_a_slot_that_nobody_can_read_does_not_stay(tmp_path: Path) -> None:
    """All is exported again once, not at each start."""
    path, said = tmp_path / "cursor.json", b'{"number":99}'
    path.write_bytes((b"%08x %b" % (zlib.crc32(said), said)).ljust(SLOT_BYTES))
    file = CursorFile(path)
    assert file.load() == Saved(0)
    file.save(Saved(3))
    assert CursorFile(path).load() == Saved(3)
