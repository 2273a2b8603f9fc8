"""Somebody removes files of a spool in use: what waited in them is counted, and the spool goes on."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from sidecar.export.frames import HEAD_BYTES, SpoolRecord, framed
from sidecar.export.spool import Spool
from sidecar.open_place import FileGoneError
from tests.fakes import ManualClock
from tests.observers import client, observer
from tests.otlp_requests import a_request, a_span
from tests.test_spool import drained

BIG = 60_000  # of a record that has a segment of its own
BIG_BOUND = 16 * (BIG + 1000)


def spool_in(folder: Path, max_bytes: int = 256 * 2**20) -> Spool:
    return Spool(folder, ManualClock(), max_bytes=max_bytes, max_age_s=1e6).open()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def appended_until_noticed(spool: Spool) -> int:
    """Append records of one span until the removed file is noticed, at most a look's interval. Returns how many."""
    put = 0
    while not spool.evicted:
        spool.append(framed(SpoolRecord(b"more", 1)))
        put += 1
    return put


def appended_until_refused(spool: Spool) -> int:
    """Append records of one span until one is refused, as the folder is gone. Returns how many were taken."""
    put = 0
    with contextlib.suppress(FileGoneError):
        while True:
            spool.append(framed(SpoolRecord(b"more", 1)))
            put += 1
    return put


def test_a_removed_open_segment_is_begun_anew(tmp_path: Path) -> None:
    """Each span is exported, counted as evicted, or there still; what is appended next is in a file again."""
    spool = spool_in(tmp_path)
    spool.append(framed(SpoolRecord(b"exported", 5)))
    assert drained(spool) == [(b"exported", 5)]
    spool.append(framed(SpoolRecord(b"waits", 3)))
    segments(tmp_path)[0].unlink()
    put = appended_until_noticed(spool)
    spool.append(framed(SpoolRecord(b"after", 7)))
    [begun] = segments(tmp_path)
    assert b"after" in begun.read_bytes()
    assert spool.held_bytes == begun.stat().st_size
    assert spool.evicted + sum(spans for _, spans in drained(spool)) == 3 + put + 7
    assert spool.evicted_bytes == HEAD_BYTES + len(b"waits") + (put - 1) * (HEAD_BYTES + len(b"more"))
    spool.close()
    again = spool_in(tmp_path)
    assert drained(again) == []
    again.close()


def test_a_lane_passes_over_removed_segments(tmp_path: Path) -> None:
    """It goes on with those that are there, also without another append, and counts each loss once."""
    spool = spool_in(tmp_path, BIG_BOUND)
    for number in range(4):
        spool.append(framed(SpoolRecord(bytes([number]) * BIG, 1)))
    _, closed, _, opened = segments(tmp_path)
    closed.unlink()
    opened.unlink()
    assert [item[0] for item, _ in drained(spool)] == [0, 2]
    assert (spool.evicted, spool.evicted_bytes) == (1, 2 * (HEAD_BYTES + BIG)), "spans of the open one; bytes of both"
    spool.append(framed(SpoolRecord(b"after", 7)))
    assert drained(spool) == [(b"after", 7)]
    assert (spool.evicted, spool.waiting_bytes) == (1, 0)
    spool.close()


def test_a_removed_segment_takes_no_room(tmp_path: Path) -> None:
    """A full spool whose oldest files were removed takes more, and throws out none of those that are left."""
    spool = spool_in(tmp_path, BIG_BOUND)
    for number in range(16):
        spool.append(framed(SpoolRecord(bytes([number]) * BIG, 1)))
    for path in segments(tmp_path)[:3]:
        path.unlink()
    for number in range(16, 19):
        spool.append(framed(SpoolRecord(bytes([number]) * BIG, 1)))
    assert spool.evicted_bytes == 3 * (HEAD_BYTES + BIG)
    assert [item[0] for item, _ in drained(spool)] == list(range(3, 19))
    spool.close()


@pytest.mark.parametrize("delivered", [True, False])
def test_what_is_on_its_way_is_lost_only_if_it_comes_back(tmp_path: Path, *, delivered: bool) -> None:
    """A batch in memory whose file is removed may still be delivered, so the count at the removal leaves it out."""
    spool = spool_in(tmp_path)
    spool.append(framed(SpoolRecord(b"sent", 5)))
    batch = spool.take()
    assert batch is not None
    segments(tmp_path)[0].unlink()
    put = appended_until_noticed(spool)
    assert spool.evicted == put - 1, "the last one is in the new file"
    if delivered:
        spool.settle(batch, 1)
    else:
        spool.give_back(batch, 0)
    assert drained(spool) == [(b"more", 1)]
    assert spool.evicted == put - 1 + (0 if delivered else 5)
    spool.close()


@pytest.mark.parametrize("other", [True, False])
def test_a_spool_whose_folder_is_gone_is_refused(tmp_path: Path, *, other: bool) -> None:
    """Also with another folder at its path. Nothing counts as evicted, and all is there when the folder is back."""
    folder, away = tmp_path / "spool", tmp_path / "away"
    spool = spool_in(folder)
    spool.append(framed(SpoolRecord(b"waits", 3)))
    folder.rename(away)
    if other:
        folder.mkdir()
    acknowledged = appended_until_refused(spool)
    with pytest.raises(FileNotFoundError):
        spool.take()
    assert (spool.evicted, spool.evicted_bytes) == (0, 0)
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    spool.append(framed(SpoolRecord(b"back", 2)))
    assert sum(spans for _, spans in drained(spool)) == 3 + acknowledged + 2
    spool.close()


async def test_senders_are_not_refused_for_a_removed_segment(tmp_path: Path) -> None:
    """OTLP stays 200, `/stats` counts the loss, and the lane has no fault."""
    settings = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    async with observer(tmp_path, **settings) as running, client(running) as http:

        async def post() -> int:
            body = a_request(a_span("x")).SerializeToString()
            answer = await http.post("/v1/traces", content=body, headers={"content-type": "application/x-protobuf"})
            return answer.status_code

        assert await post() == 200
        [segment] = segments(tmp_path / "data" / "spool")
        segment.unlink()
        while not (await http.get("/stats")).json()["lost"]["export_evicted"]:
            assert await post() == 200
        assert await post() == 200
        assert segments(tmp_path / "data" / "spool") not in ([], [segment])
