"""`POST /events`: batches as a JSON array or one event a line, of which the good ones stay in."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import resource
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from sidecar.errors import OverloadedError
from sidecar.protocols import Receipt
from sidecar.receivers.event_intake import LARGE_BYTES, Reading
from sidecar.receivers.event_resource import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, EventsResource, _Batch
from sidecar.receivers.open_ops import OpenOps
from tests.fakes import SettledReceipt, an_op
from tests.observers import FaultyFile, client, journal, observer

_ZIPPED = {"content-encoding": "gzip"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an observer of its own."""
    async with observer(tmp_path) as running, client(running) as http:
        yield http


async def post(door: httpx.AsyncClient, content: bytes, **headers: str) -> tuple[int, Any]:
    answer = await door.post("/events", content=content, headers=headers)
    return answer.status_code, answer.json()


def lines(events: list[Any]) -> bytes:
    return b"\n".join(json.dumps(event).encode() for event in events)


async def test_array_and_lines_plain_and_zipped_are_one_thing(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Each form gives the same ops, in the order they were sent; the answer counts them and the ring."""
    events = [{"count": number, "success": True} for number in range(50)]
    array, by_line = json.dumps(events, indent=1).encode(), lines(events)
    forms: list[tuple[bytes, dict[str, str]]] = [
        (array, {}),
        (by_line, {}),
        (by_line.replace(b"\n", b"\r\n\r\n") + b"\n", {}),
    ]
    forms += [(gzip.compress(array), _ZIPPED), (gzip.compress(by_line), _ZIPPED)]
    for number, (content, headers) in enumerate(forms, 1):
        said = await post(door, content, **headers)
        assert said == (200, {"accepted": 50, "rejected": [], "ring_size": 50 * number})
    assert [line["count"] for line in journal(tmp_path)] == [*range(50)] * len(forms)


@pytest.mark.parametrize("form", [lines, lambda events: json.dumps(events).encode()])
async def test_good_events_stay_in_whatever_the_others_are(door: httpx.AsyncClient, tmp_path: Path, form: Any) -> None:
    """What is wrong is told by index, as `/event` would have told it."""
    status, said = await post(door, form([{"count": 0}, {"count": "x"}, [1], 7, None, True, {"count": 6}]))
    assert (status, said["accepted"], said["ring_size"]) == (200, 2, 2)
    assert [wrong["index"] for wrong in said["rejected"]] == [1, 2, 3, 4, 5]
    assert said["rejected"][0]["error"].startswith("count is 'x': expected ")
    assert all("JSON object" in wrong["error"] for wrong in said["rejected"][1:])
    assert [line["count"] for line in journal(tmp_path)] == [0, 6]


async def test_hints_come_once_with_the_first_event_that_they_are_about(door: httpx.AsyncClient) -> None:
    """Twenty at most, whatever the events; a batch without misspelt fields is answered as ever."""
    _, said = await post(
        door, lines([{"success": True}, {"sucess": True}, {"count": "x"}, {"sucess": 1, "citty": "A"}])
    )
    assert [(each["index"], each["hint"].split("'")[1]) for each in said["hints"]] == [(1, "sucess"), (3, "citty")]
    _, said = await post(door, lines([{f"success{letter}": True} for letter in "abcdefghijklmnopqrstuvwxyz"]))
    assert (said["accepted"], [each["index"] for each in said["hints"]]) == (26, list(range(20)))
    _, said = await post(door, lines([{"success": True}, {"shift": "night", "count": 1}]))
    assert "hints" not in said


async def test_calls_without_an_outcome_are_hinted_at_once(door: httpx.AsyncClient) -> None:
    """Once a request, with the first of them; scenarios are answered as ever."""
    _, said = await post(door, lines([{"count": 1}, {"endpoint": "/a"}, {"endpoint": "/b"}]))
    assert said["hints"] == [{"index": 1, "hint": "no success given: it counts as a failure"}]


@pytest.mark.parametrize("body", [b'{"events": [{"count": 1}]}', b'{\n "n": 2,\n "items": [\n {},\n {}\n ]\n}\n'])
async def test_an_array_inside_an_object_is_refused(door: httpx.AsyncClient, tmp_path: Path, body: bytes) -> None:
    """It would count as one failed event. An event that holds an array is one all the same, and so are several."""
    status, said = await post(door, body)
    assert status == 422
    assert "Send the array itself, or one event a line" in said["error"]
    for fine in (b'{"success": true, "rows": [1]}', b'{"rows": [1]}\n{"rows": [2]}', b'{"shift": "[night]"}'):
        assert (await post(door, fine))[0] == 200
    assert len(journal(tmp_path)) == 4


@pytest.mark.parametrize("body", [b'{"count": "x"}\n[1]', b'[{"count": "x"}, 7]', b"{bad\n{bad", b'{\n"n": 1,}\n'])
async def test_a_batch_of_which_nothing_is_taken_is_an_error(
    door: httpx.AsyncClient, tmp_path: Path, body: bytes
) -> None:
    """A sender that looks at the status alone must not think that all is well; what was wrong is told as ever."""
    status, said = await post(door, body)
    assert (status, said["accepted"], said["ring_size"]) == (422, 0, 0)
    assert said["error"].endswith(said["rejected"][0]["error"])
    assert [wrong["index"] for wrong in said["rejected"]] == [0, 1]
    assert journal(tmp_path) == []


async def test_a_batch_sent_again_is_taken_and_one_under_known_ids_is_not(door: httpx.AsyncClient) -> None:
    """Repeats count as accepted; events with the ids of others are refused, whatever their number."""
    for _ in range(2):
        status, said = await post(door, b'[{"event_id": "a", "count": 1}]')
        assert (status, said["accepted"]) == (200, 1)
    assert (await post(door, b'[{"event_id": "a", "count": 2}]'))[0] == 422


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_a_byte_order_mark_and_an_object_on_several_lines_are_read(
    door: httpx.AsyncClient, tmp_path: Path, mark: bytes
) -> None:
    """Some editors and platforms write the mark; some encoders indent."""
    for number, body in enumerate(
        (b'[{"count": 7}]', b'{"count": 7}\n{"count": 7}', b'\n{\n "count": 7,\n "rows": [1]\n}\n')
    ):
        status, said = await post(door, mark + body)
        assert (status, said["rejected"]) == (200, []), number
    assert [line["count"] for line in journal(tmp_path)] == [7] * 4


async def test_one_large_object_is_refused_before_it_is_decoded(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """It is too large for an event, and a million keys would become hundreds of megabytes."""
    body = json.dumps({"events": [{"count": 1, "input_summary": "x" * 1000}] * 1100}).encode()
    status, said = await post(door, body)
    assert (status, "one event a line" in said["error"]) == (413, True)
    assert journal(tmp_path) == []


async def test_a_line_that_is_no_json_costs_itself(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Malformed, cut short or not UTF-8: the lines around it count."""
    status, said = await post(door, b'{"count": 1}\n{"count": \n\xff\xfe\n{"count": 4}\n{"count": 5')
    assert (status, said["accepted"], [wrong["index"] for wrong in said["rejected"]]) == (200, 2, [1, 2, 4])
    assert [line["count"] for line in journal(tmp_path)] == [1, 4]


async def test_events_that_share_a_line_are_told_how_that_came(door: httpx.AsyncClient) -> None:
    """`curl -d @batch.jsonl` removes the line ends; `/event` takes one object alone."""
    glued = b"".join(lines([{"count": 1}, {"count": 2}]).splitlines())
    for path in ("/event", "/events"):
        answer = await door.post(path, content=glued)
        assert answer.status_code in (400, 422)
        assert "several objects are where one was expected" in answer.text
        assert "with curl use --data-binary, as -d removes line ends" in answer.text
    assert "Expecting value" in (await door.post("/event", content=b'{"count": }')).text


async def test_a_broken_array_is_malformed_as_a_whole(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """There is no telling where its events begin."""
    for body in (b"[", b'[{"count": 1},', b'[{"count": 1}] x', b"[" * 100_000):
        status, said = await post(door, body)
        assert (status, bool(said["error"])) == (400, True)
    assert journal(tmp_path) == []
    assert await post(door, b"[]") == (200, {"accepted": 0, "rejected": [], "ring_size": 0})


async def test_odd_texts_and_huge_numbers_spoil_nothing(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """One event with a lone surrogate, a NUL or a number beyond all types leaves its neighbours alone."""
    odd = [rb'{"role": "a\ud800"}', rb'{"role": "b\u0000"}', b'{"x": 1e999}', b'{"x": %b}' % (b"9" * 5000)]
    for content in (b"\n".join(odd), b"[%b]" % b",".join(odd)):
        assert (await post(door, content))[1]["accepted"] == 4
        first, second, third, fourth = journal(tmp_path)[-4:]
        assert (first["role"], second["role"]) == ("a\N{REPLACEMENT CHARACTER}", "b\N{REPLACEMENT CHARACTER}")
        assert (third["extra"]["x"], fourth["extra"]["x"]) == ("1e999", "9" * 5000)


async def test_too_much_is_refused(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Over 20 MiB as it is or unzipped, or too many events: 413, and none of it is kept."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    bombed = b"".join(bomb.compress(b"\n" * 2**20) for _ in range(100)) + bomb.flush()
    for content, headers in (
        (b" " * (MAX_BATCH_BYTES + 1), {}),
        (bombed, _ZIPPED),
        (b"{}\n" * (MAX_BATCH_EVENTS + 1), {}),
    ):
        status, said = await post(door, content, **headers)
        assert (status, bool(said["error"])) == (413, True)
    assert journal(tmp_path) == []


async def test_what_is_made_of_a_body_is_bounded_too(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Ten million values fit into 20 MiB, and would take forty times that: 413 before they are made."""
    before = _peak_kib()
    for content in (
        b"[1" + b",1" * 10_000_000 + b"]",
        b"\n" * MAX_BATCH_BYTES,
        b'["\\ud800"' + b",{}" * 300_000 + b"]",
        b"[" * MAX_BATCH_BYTES,
    ):
        status, said = await post(door, gzip.compress(content, 1), **_ZIPPED)
        assert (status in (400, 413), bool(said["error"])) == (True, True)
    assert _peak_kib() - before < 200_000
    assert journal(tmp_path) == []


def _peak_kib() -> int:
    """The most memory this process has had resident, the test's own bodies included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_one_event_is_no_larger_in_a_batch(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """What `/event` would not take is rejected by index; its neighbours stay in."""
    large = json.dumps({"note": "x" * 2**20}).encode()
    for content in (b"{}\n%b\n{}" % large, b"[{},%b,{}]" % large):
        status, said = await post(door, content)
        assert (status, said["accepted"], [wrong["index"] for wrong in said["rejected"]]) == (200, 2, [1])
    assert len(journal(tmp_path)) == 4


async def test_a_batch_up_to_the_bound_is_taken_although_all_doors_share_less(
    door: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A lone request may be larger than the budget in flight: sending it again would never help."""
    event = json.dumps({"note": "x" * 2**18}).encode()
    content = b"\n".join([event] * 70)
    assert 17 * 2**20 < len(content) < MAX_BATCH_BYTES
    assert (await post(door, content))[1]["accepted"] == 70
    assert len(journal(tmp_path)) == 70


async def test_what_does_not_fit_in_flight_is_told_to_come_again(tmp_path: Path) -> None:
    """While another request fills the budget: 503 with Retry-After; afterwards the same request is good."""
    async with observer(tmp_path, OBSERVER_INFLIGHT_BYTES=str(2**20)) as running, client(running) as http:
        running.budget.take(2**20)
        answer = await http.post("/events", content=b"{}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]
        running.budget.give_back(2**20)
        assert (await post(http, b"{}"))[0] == 200
        assert running.budget.used == 0


async def test_the_lines_are_in_the_file_when_the_answer_comes(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Also with several batches at once: each finds all its events, in its own order."""

    async def batch(name: str) -> None:
        status, said = await post(door, lines([{"task": name, "count": number} for number in range(300)]))
        mine = [line["count"] for line in journal(tmp_path) if line.get("task") == name]
        assert (status, said["accepted"], mine) == (200, 300, [*range(300)])

    await asyncio.gather(*(batch(f"batch {number}") for number in range(8)))


async def test_a_batch_that_the_disk_does_not_take_is_refused(tmp_path: Path) -> None:
    """503 with Retry-After, nothing in ring or journal; the same batch is good once there is room."""
    fault = FaultyFile.fresh()
    async with observer(tmp_path, open_file=fault) as running, client(running) as http:
        fault.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        answer = await http.post("/events", content=lines([{}] * 10))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "No space left" in answer.json()["error"]
        assert (len(running.ring), journal(tmp_path)) == (0, [])
        fault.failure = None
        assert (await post(http, lines([{}] * 10)))[1]["ring_size"] == 10
        assert len(journal(tmp_path)) == 10


async def test_one_trace_context_holds_for_the_whole_batch(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Each event is a span of its own under the sender's."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    await post(door, lines([{}, {}, {}]), traceparent=f"00-{trace}-{span}-01")
    found = journal(tmp_path)
    assert {(line["trace_id"], line["parent_span_id"]) for line in found} == {(trace, span)}
    assert len({line["span_id"] for line in found}) == 3


class TimedIntake:
    """Reading an event takes a tenth of a millisecond of the time *now*."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.held = 0  # the most receipts that were handed to `settled` at once

    def read(self, _event: object) -> Reading:
        self.now += 0.0001
        return Reading(an_op(), stamped=False)

    def take(self, reading: Reading, _headers: object) -> SettledReceipt:
        return SettledReceipt(reading.op)

    async def settled(self, receipts: Sequence[Receipt]) -> None:
        self.held = max(self.held, len(receipts))


async def test_many_small_events_leave_others_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of other tasks every three milliseconds, though the events read together take less."""
    loop, turns = asyncio.get_running_loop(), 0
    intake = TimedIntake(loop.time())

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(loop, "time", lambda: intake.now)
    other = asyncio.create_task(others())
    assert await recorded(intake, 2000) == (2000, [])
    other.cancel()
    assert 40 <= turns <= 68


async def test_a_batch_holds_no_more_than_its_share_of_receipts() -> None:
    """It waits for the older half before it reads on, and for less while other batches are under way."""
    alone, beside = TimedIntake(0.0), TimedIntake(0.0)
    open_ops = OpenOps(limit=400 * 2048)
    assert await recorded(alone, 5000, open_ops) == (5000, [])
    with open_ops.batch(), open_ops.batch(), open_ops.batch():
        assert await recorded(beside, 5000, open_ops) == (5000, [])
    assert 100 <= alone.held <= 300
    assert beside.held <= 150


async def recorded(intake: TimedIntake, events: int, open_ops: OpenOps | None = None) -> tuple[int, list[Any]]:
    """What `POST /events` with so many events comes to at *intake*."""
    open_ops = open_ops or OpenOps()
    door = EventsResource(cast("Any", intake), cast("Any", None), open_ops)
    with open_ops.batch() as held:
        batch = _Batch(held, {})
        await door._record([b"{}"] * events, batch)
    return batch.accepted, batch.rejected


class FullIntake(TimedIntake):
    """It has room for five events."""

    taken = 0

    def take(self, reading: Reading, headers: object) -> SettledReceipt:
        if self.taken == 5:
            raise OverloadedError("the journal cannot keep up", "too much waits", "Send it again later")
        self.taken += 1
        return super().take(reading, headers)


async def test_events_beyond_the_room_are_named_and_those_before_are_not() -> None:
    """Of events that were read together, some are taken: only the others are to be sent again."""
    accepted, rejected = await recorded(FullIntake(0.0), 8)
    assert (accepted, [each["index"] for each in rejected]) == (5, [5, 6, 7])
    assert all(str(each["error"]).startswith("retry: ") for each in rejected)


async def test_a_large_event_among_small_ones_keeps_its_place(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """It is read in a thread; none before or behind it is lost, repeated or overtaken."""
    events = [{"count": number, "error": "x" * (2 * LARGE_BYTES if number in (2, 5) else 1)} for number in range(8)]
    status, said = await post(door, lines([*events, {"count": "many"}]))
    assert (status, said["accepted"], [wrong["index"] for wrong in said["rejected"]]) == (200, 8, [8])
    assert [line["count"] for line in journal(tmp_path)] == list(range(8))
