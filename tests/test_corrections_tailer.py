"""The corrections tailer: each row once and in order, whatever happens to the file, the journal or the process."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.normalize import Normalizer
from sidecar.receivers.corrections_file import MAX_LINE_BYTES
from sidecar.receivers.corrections_follower import READ_LINES
from sidecar.redaction import Redactor
from tests.corrections_bench import Bench, rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_rows_are_read_as_they_come(bench: Bench) -> None:
    """No file, then an empty one, then rows in several appends: each once, in order, and alike rows each count."""
    assert await bench.tailer.tail() == 0
    bench.append()
    assert await bench.tailer.tail() == 0
    bench.append("a", "b", "a")
    assert await bench.tailer.tail() == 3
    assert await bench.tailer.tail() == 0
    bench.append("a")
    assert await bench.tailer.tail() == 1
    assert bench.got == ["a", "b", "a", "a"]
    assert len({op.event_id for op in bench.recorder.journal}) == 4
    bench.tailer.close()


async def test_partial_line_is_waited_for(bench: Bench) -> None:
    """A row that ends inside a character is read once it is whole, and blank lines are nothing."""
    row = rows("Zürich – 東京 🙂")
    for end in range(len(row)):
        bench.path.write_bytes(row[:end])
        assert await bench.tailer.tail() == 0
    bench.path.write_bytes(row + b"\n  \r\n" + rows("next").replace(b"\n", b"\r\n"))
    assert await bench.tailer.tail() == 2
    assert bench.got == ["Zürich – 東京 🙂", "next"]
    assert bench.tailer.rejected == 0
    bench.tailer.close()


async def test_bad_rows_cost_themselves(bench: Bench) -> None:
    """Rows that are no corrections are counted and named by place and reason; the rest is read."""
    bench.append("a")
    with bench.path.open("ab") as file:
        file.write(b"null\n17\n{broken\n" + b'{"correction": "' + b"z" * MAX_LINE_BYTES + b'"}\n')
    bench.append("b")
    with capture_logs() as logs:
        assert await bench.tailer.tail() == 2
    assert (bench.got, bench.tailer.rejected) == (["a", "b"], 4)
    rejects = [entry for entry in logs if entry["event"] == "corrections.row_rejected"]
    assert [entry["ends_at"] for entry in rejects] == [25, 28, 36, MAX_LINE_BYTES + 55]
    assert "null" in rejects[0]["why"]
    assert "too long" in rejects[3]["why"]
    bench.tailer.close()


async def test_flood_of_bad_rows_is_logged_in_few_lines(bench: Bench) -> None:
    """A file of rubbish does not fill the log."""
    bench.path.write_bytes(b"rubbish\n" * 500)
    with capture_logs() as logs:
        assert await bench.tailer.tail() == 0
    assert bench.tailer.rejected == 500
    assert len(logs) < 20
    assert logs[-1]["rows"] == 500
    bench.tailer.close()


async def test_endless_line_is_skipped_over_many_reads_and_a_restart(bench: Bench) -> None:
    """A line over the bound is counted once, however many reads it takes to come to its end."""
    with bench.path.open("ab") as file:
        for _ in range(3):
            file.write(b"x" * (2 * MAX_LINE_BYTES))
            file.flush()
            assert await bench.tailer.tail() == 0
            bench.restart()
        file.write(b"\n")
    bench.append("a")
    assert await bench.tailer.tail() == 1
    assert bench.tailer.cursor()["position"]["offset"] == bench.path.stat().st_size
    bench.tailer.close()


async def test_reads_are_bounded(bench: Bench) -> None:
    """At most 10,000 rows a call; the next call goes on behind them."""
    bench.append(*map(str, range(READ_LINES + 5)))
    assert await bench.tailer.tail() == READ_LINES
    assert await bench.tailer.tail() == 5
    assert bench.got == [str(number) for number in range(READ_LINES + 5)]
    bench.tailer.close()


async def test_only_the_suffix_of_a_huge_file_is_read(bench: Bench) -> None:
    """A gigabyte that was read before costs no more than what was appended to it."""
    bench.append("a")
    await bench.tailer.tail()
    hole = bench.path.stat().st_size
    os.truncate(bench.path, 1 << 30)
    cursor = bench.tailer.cursor()
    cursor["position"] |= {"offset": 1 << 30, "row": "", "row_bytes": 0, "reread_until": 0}
    bench.restart(cursor)
    bench.append("b")
    before = _bytes_read()
    assert await bench.tailer.tail() == 1
    assert _bytes_read() - before < 10_000_000  # an import or two may come in between
    assert hole < bench.tailer.cursor()["position"]["offset"]
    bench.tailer.close()


def _bytes_read() -> int:
    """What this process has read so far, from the kernel's account."""
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_links_name_the_failures(bench: Bench) -> None:
    """A correction is linked to what it was meant to repair; a lookup that breaks costs the links only."""
    bench.path.write_text('{"sig_hash": "s1"}\n{"sig_hash": "broken"}\n{}\n')
    assert await bench.tailer.tail() == 3
    assert bench.recorder.links == [[("0" * 31 + "1", "0" * 15 + "2")], [], []]
    bench.tailer.close()


async def test_row_that_no_span_can_be_is_left_out(bench: Bench) -> None:
    """A recorder that raises for one row is counted against that row."""
    bench.recorder.poison = {"b"}
    bench.append("a", "b", "c")
    assert await bench.tailer.tail() == 2
    assert (bench.got, bench.tailer.rejected) == (["a", "c"], 1)
    bench.tailer.close()


async def test_full_journal_is_tried_again(bench: Bench) -> None:
    """Rows that find no room stay for the next cycle, in order, also over a restart."""
    bench.append("a", "b", "c", "d")
    bench.recorder.room = 2
    assert await bench.tailer.tail() == 2
    assert await bench.tailer.tail() == 0
    bench.recorder.room = 1
    assert await bench.tailer.tail() == 1
    bench.restart()
    bench.recorder.room = 9
    assert await bench.tailer.tail() == 1
    assert bench.got == ["a", "b", "c", "d"]
    bench.tailer.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_refused_row_holds_the_cursor_but_nothing_is_recorded_twice(bench: Bench, restarts: bool) -> None:
    """Rows behind a refused one that were written are remembered, and not written again with it."""
    bench.append("a", "b", "c", "d")
    bench.recorder.failing = {"b"}
    assert await bench.tailer.tail() == 3
    assert bench.tailer.cursor()["position"]["offset"] == len(rows("a"))
    if restarts:
        bench.restart()
    bench.append("e")
    assert await bench.tailer.tail() == (1 if restarts else 0)
    bench.recorder.failing = set()
    assert await bench.tailer.tail() == 1
    await bench.tailer.tail()
    assert sorted(filter(None, bench.got)) == ["a", "b", "c", "d", "e"]
    assert bench.tailer.cursor()["position"]["offset"] == bench.path.stat().st_size
    bench.tailer.close()


@pytest.mark.parametrize("written", [True, False])
async def test_stalled_write_is_not_repeated_until_it_is_known_to_have_failed(bench: Bench, written: bool) -> None:
    """A receipt that failed for lateness may come true: the row is recorded again only if it did not."""
    bench.append("a", "b")
    stalled = bench.recorder.stalled = []
    assert await bench.tailer.tail() == 0
    assert await bench.tailer.tail() == 0
    assert len(stalled) == 2
    for receipt in stalled:
        receipt.outcome = written
    bench.recorder.stalled = None
    assert await bench.tailer.tail() == (2 if written else 0)
    assert await bench.tailer.tail() == (0 if written else 2)
    assert bench.got == ([] if written else ["a", "b"])
    bench.tailer.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_row_that_settles_while_nobody_tails_is_in_the_cursor(bench: Bench, restarts: bool) -> None:
    """Told of ops as they settle, the tailer has them in its cursor before its own wait comes to an end."""
    bench.append("a", "b")
    stalled = bench.recorder.stalled = []
    assert await bench.tailer.tail() == 0
    for receipt in stalled:
        receipt.outcome = True
        bench.tailer.restore(receipt.op)
    bench.recorder.stalled = None
    if restarts:
        bench.restart()
    assert await bench.tailer.tail() == (0 if restarts else 2)
    assert bench.got == []
    assert bench.tailer.cursor()["ahead"] == []
    assert bench.tailer.cursor()["position"]["offset"] == bench.path.stat().st_size
    bench.tailer.close()


async def test_cancelled_tail_loses_and_repeats_nothing(bench: Bench) -> None:
    """A caller that gives up at any moment, as often as it likes, still gets every row once."""
    bench.append(*map(str, range(40)))
    for turns in range(30):
        tail = asyncio.ensure_future(bench.tailer.tail())
        for _ in range(turns % 7):
            await asyncio.sleep(0)
        tail.cancel()
        await asyncio.wait({tail})
    while bench.tailer.cursor()["position"] is None or len(bench.got) < 40:
        await bench.tailer.tail()
    assert bench.got == [str(number) for number in range(40)]
    bench.tailer.close()


async def test_unreadable_path_is_counted_and_logged_once(bench: Bench) -> None:
    """A folder or a FIFO in the file's place neither hangs nor ends the tail; what comes later is read."""
    os.mkfifo(bench.path)
    with capture_logs() as logs:
        assert [await bench.tailer.tail() for _ in range(3)] == [0, 0, 0]
    told = [each["event"] for each in logs if each["event"] == "corrections.read_failed"]  # others may log meanwhile
    assert (bench.tailer.read_errors, len(told)) == (3, 1)
    bench.path.unlink()
    bench.append("a")
    assert await bench.tailer.tail() == 1
    bench.tailer.close()


_texts = st.lists(st.text(max_size=12) | st.just("same"), max_size=12)


@settings(max_examples=100, deadline=None)
@given(_texts, st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["go on", "restart", "kill"])), max_size=8))
def test_any_split_yields_each_row_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], steps: list[tuple[int, str]]
) -> None:
    """However rows are split into appends, and whenever the process ends, each is recorded once and in order.

    `restart` begins from the cursor as it is, `kill` from the one saved before the last calls, with the journal
    behind it restored.
    """

    async def play() -> None:
        bench = Bench(tmp_path_factory.mktemp("tail"))
        stream, at = rows(*texts), 0
        saved: tuple[dict[str, object], int] = ({}, 0)
        for length, then in [*steps, (len(stream), "kill")]:
            with bench.path.open("ab") as file:
                file.write(stream[at : at + length])
            at += length
            await bench.tailer.tail()
            if then == "kill":
                bench.restart(*saved)
            elif then == "restart":
                bench.restart()
                saved = (bench.tailer.cursor(), len(bench.recorder.journal))
        await bench.tailer.tail()
        assert bench.got == [_clean(text) for text in texts]
        bench.tailer.close()

    asyncio.run(play())


def _clean(text: str) -> str:
    return Normalizer(Redactor()).text(text)


async def test_hanging_disk_does_not_keep_close(bench: Bench) -> None:
    """Closing while a read is under way returns; the read gives the descriptors back at its end."""
    bench.append("a")
    await bench.tailer.tail()
    reader = bench.tailer._follower
    with reader._lock:  # a read that hangs holds this
        bench.tailer.close()
        assert reader._file is not None
    ended = threading.Thread(target=reader.read)
    ended.start()
    ended.join()
    assert reader._file is None
