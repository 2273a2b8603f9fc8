"""`POST /event`: one event, its defaults, spellings, refusals, and the promise that its line is written."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from sidecar.clock import rfc3339_ms
from tests.observers import client, journal, observer, raw, without_crc
from tests.strategies import texts

_TEXT_FIELDS = (
    *("endpoint", "input_summary", "output_summary", "error", "source", "staffer_id", "sig_hash", "event_kind"),
    *("role", "city", "state", "task_class", "correction", "error_type", "task", "exposure_id", "event_id", "amends"),
)
_REPLACED = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an observer of its own."""
    async with observer(tmp_path) as running, client(running) as http:
        yield http


async def post(door: httpx.AsyncClient, event: object, **headers: str) -> httpx.Response:
    return await door.post("/event", content=json.dumps(event).encode(), headers=headers)


async def test_missing_fields_get_the_defaults_that_callers_know(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """An empty event is a failed fill of which nothing is known."""
    answer = await post(door, {})
    assert answer.status_code == 200
    (line,) = journal(tmp_path)
    assert rfc3339_ms(0) < line.pop("timestamp")
    ids = [line.pop(name) for name in ("op_id", "trace_id", "span_id", "crc")]
    assert all(ids)
    assert line == {
        "endpoint": "scenario:fill",
        "input_summary": "? ?×? in ?, ?",
        "success": False,
        "duration_ms": 0,
        "output_summary": "failed",
        "source": "scenario",
        "rescue_attempted": False,
        "rescue_succeeded": False,
        "v": 1,
    }


_DEFAULTS: list[tuple[dict[str, Any], str, object]] = [
    ({"success": True}, "output_summary", "filled"),
    ({"error": "no shift"}, "output_summary", "no shift"),
    ({"output_summary": "", "success": True}, "output_summary", ""),
    (
        {"event_kind": "fill", "role": "welder", "count": 3, "city": "Reno", "state": "NV"},
        "input_summary",
        "fill welder×3 in Reno, NV",
    ),
    ({"count": 3.0}, "input_summary", "? ?×3 in ?, ?"),
    ({"endpoint": "scenario:cancel", "features": {"vip": True}}, "input_summary", "? ?×? in ?, ?"),
    ({"endpoint": "/fill", "role": "cook", "success": True}, "input_summary", "? cook×? in ?, ?"),
    ({"endpoint": "/fill", "role": "cook", "success": True}, "output_summary", "filled"),
    (
        {"endpoint": "/tools/refund", "features": {"age_days": 41, "vip": True, "api_key": "k-1", "note": "a\nb"}},
        "input_summary",
        "/tools/refund age_days=41 api_key=[redacted] note=a b vip=true",
    ),
    ({"endpoint": "/tools/refund", "success": True}, "input_summary", "/tools/refund"),
    ({"endpoint": "/tools/refund", "success": True}, "output_summary", "ok"),
    ({"endpoint": "/tools/refund"}, "output_summary", "failed"),
    ({"source": "langfuse"}, "source", "langfuse"),
    ({"endpoint": None}, "endpoint", "scenario:fill"),
]


async def test_defaults_follow_from_what_is_there(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Summaries are made of the fields that came; null is absent, an empty text is not."""
    for event, field, value in _DEFAULTS:
        assert (await post(door, event)).status_code == 200
        assert journal(tmp_path)[-1][field] == value


_SPELLINGS: dict[str, list[tuple[object, object]]] = {
    "success": [(True, True), (1, True), ("true", True), ("1", True)],
    "rescue_attempted": [(False, False), (0, False), ("false", False), ("0", False)],
    "duration_ms": [("12.5", 12.5), ("12", 12), (1e3, 1000.0), (0, 0), (10**12, 10**12)],
    "count": [("-3", -3), (2**63 - 1, 2**63 - 1), (2.5, 2.5), (10**30, 1e30)],
    "applied_at_turn": [(2, 2)],
    "timestamp": [
        ("2026-01-31T08:15:00Z", "2026-01-31T08:15:00.000Z"),
        ("2026-01-31T08:15:00.1239+02:00", "2026-01-31T06:15:00.123Z"),
    ],
    "features": [({"a": 1, "b": [1, {"c": 2}], "d": None}, {"a": 1, "b": '[1,{"c":2}]'})],
    "trace_id": [("0AF7651916CD43DD8448EB211C80319C", "0af7651916cd43dd8448eb211c80319c")],
}


async def test_accepted_spellings(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Booleans as words and digits, numbers as decimal strings, times with any offset."""
    for field, spellings in _SPELLINGS.items():
        for sent, kept in spellings:
            assert (await post(door, {field: sent})).status_code == 200, (field, sent)
            value = journal(tmp_path)[-1][field]
            assert (value, type(value)) == (kept, type(kept))


_WRONG: dict[str, list[object]] = {
    "success": ["yes", "False", "", 2, 1.0, [], {}, "tru"],
    "rescue_succeeded": ["no", []],
    "duration_ms": [-1, "-0.5", 1e300, 10**12 + 1, "NaN", "Infinity", "1e999", True, [], "ten", 10**400],
    **{field: [5, True, [], {"a": 1}] for field in _TEXT_FIELDS},
    "timestamp": ["yesterday", "2026-01-31", "2026-01-31T08:15:00", 1738311300, ""],
    "trace_id": ["0" * 32, "xyz", "0af7651916cd43dd8448eb211c80319", 7],
    "parent_span_id": ["0" * 16, "b7ad6b716920333", "ü" * 16],
    "count": ["many", [3], 10**400, False],
    "features": [[], "x", 1],
    "extra": ["x"],
}


async def test_refused_values_are_named_with_what_is_expected(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """422 says which field, what it is, what it should be; nothing is kept."""
    for field, values in _WRONG.items():
        for value in values:
            answer = await post(door, {field: value})
            assert answer.status_code == 422, (field, value)
            error = answer.json()["error"]
            assert error.startswith(f"{field} is ")
            assert "expected " in error
            assert not isinstance(value, str) or repr(value) in error
    assert journal(tmp_path) == []


async def test_a_long_wrong_value_is_not_shown_whole(door: httpx.AsyncClient) -> None:
    """What is quoted back is short: it may be a secret in the wrong field."""
    error = (await post(door, {"success": "s" * 5000})).json()["error"]
    assert len(error) < 300


async def test_numbers_that_are_none_are_refused(door: httpx.AsyncClient) -> None:
    """What JSON cannot say is malformed; what overflows is wrong."""
    for literal, status in ((b"NaN", 400), (b"Infinity", 400), (b"-Infinity", 400), (b"1e999", 422)):
        answer = await door.post("/event", content=b'{"duration_ms": %b}' % literal)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True)


async def test_what_is_no_json_object_is_malformed(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """400 with an error, and no op."""
    for body in (b"", b"{", b"[1,2]", b"5", b"true", b"null", b'"x"', b"\xff\xfe", b'{"a":1}{', b"NaN"):
        answer = await door.post("/event", content=body)
        assert (answer.status_code, bool(answer.json()["error"])) == (400, True), body
    assert journal(tmp_path) == []


async def test_deep_nesting_is_malformed_or_kept_but_never_a_fault(door: httpx.AsyncClient) -> None:
    """A hundred thousand brackets cost their own request only."""
    for depth in (100, 1_000, 100_000):
        nested = b"[" * depth + b"]" * depth
        answer = await door.post("/event", content=b'{"x": %b}' % nested)
        assert answer.status_code in (200, 400), (depth, answer.text)
    assert (await post(door, {})).status_code == 200


async def test_every_refusal_has_an_error(door: httpx.AsyncClient) -> None:
    """404, 405, 413, 415, a head without end and what is not HTTP at all say why, as JSON."""
    for status, answer in (
        (404, await door.get("/nowhere")),
        (405, await door.put("/event", content=b"{}")),
        (413, await door.post("/event", content=b"x" * (2**20 + 1))),
        (415, await door.post("/event", content=b"{}", headers={"content-encoding": "br"})),
    ):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"]
    long = b"GET /stats HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000
    for status_line, request in ((b"HTTP/1.1 400", b"what is this\r\n\r\n"), (b"HTTP/1.1 431", long)):
        head, _, body = (await raw(door.base_url.port or 0, request)).partition(b"\r\n\r\n")
        assert (head.startswith(status_line), bool(json.loads(body)["error"])) == (True, True)


async def test_fields_that_nobody_knows_are_kept(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """They go to `extra`, beside what the sender put there; huge integers and nested values as JSON text."""
    event = {"shift": "night", "pay": 31.5, "huge": 10**30, "list": [1, "a"], "none": None, "extra": {"given": True}}
    await post(door, {**event, "op_id": "mine", "span_id": "mine", "v": 7})
    line = journal(tmp_path)[-1]
    kept = {"given": True, "shift": "night", "pay": 31.5, "huge": str(10**30), "list": '[1,"a"]'}
    assert line["extra"] == {**kept, "op_id": "mine", "span_id": "mine", "v": 7}
    assert line["op_id"] != "mine"


async def test_a_misspelt_field_is_kept_and_hinted_at(tmp_path: Path) -> None:
    """Only where it resembles a known one that the event does not have; what is kept and how it counts is as ever."""
    misspelt = {"sucess": True, "ednpoint": "/a", "stafferId": "st-1", "shift": "night", "extra": {"durations": 7}}
    async with observer(tmp_path) as running, client(running) as door:
        answer = (await post(door, misspelt)).json()
        said = {
            f"'{name}' is kept as an extra field; did you mean '{known}'?"
            for name, known in (("sucess", "success"), ("ednpoint", "endpoint"), ("stafferId", "staffer_id"))
        }
        assert (set(answer.pop("hints")), set(answer)) == (said, {"accepted", "ring_size", "trace_id", "span_id"})
        known = {"success": False}
        for fine in (
            {},
            {"shift": "night", **known},
            {"sucess": True, **known},
            {"account": 1, "country": "x", **known},
        ):
            assert "hints" not in (await post(door, fine)).json()
        await post(door, {**known, **{f"name{number}x": 1 for number in range(6)}})
        hints = (await door.get("/stats")).json()["hints"]
        assert hints == {"events": 1, "fields_not_compared": 3}  # four new ones an event: two of these, and `shift`
    line = journal(tmp_path)[0]
    assert (line["success"], line["endpoint"]) == (False, "scenario:fill")
    kept = {"sucess": True, "ednpoint": "/a", "stafferId": "st-1", "shift": "night", "durations": 7}
    assert line["extra"] == kept


async def test_large_and_repeated_events_are_hinted_at_too(door: httpx.AsyncClient) -> None:
    """Whichever way an event is read, and however often it comes."""
    event = {"sucess": True, "event_id": "e-1", "error": "x" * 50_000}
    answers = [(await post(door, event)).json() for _ in range(2)]
    assert [len(answer["hints"]) for answer in answers] == [1, 1]


async def test_two_hundred_unknown_fields_are_all_there(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """64 entries at most; the rest of them as JSON text under one name."""
    await post(door, {f"field_{n}": n for n in range(200)})
    extra = journal(tmp_path)[-1]["extra"]
    assert len(extra) == 64
    rest = json.loads(extra.pop("_rest"))
    assert {**extra, **rest} == {f"field_{n}": n for n in range(200)}


async def test_lone_surrogates_and_nul_become_the_replacement_character(
    door: httpx.AsyncClient, tmp_path: Path
) -> None:
    """In every text field, known or not, and in field names."""
    for field in (*_TEXT_FIELDS, "anything"):
        for odd in (r"a\u0000b", r"a\ud800b", r"a\udfffb"):
            body = f'{{"{field}": "{odd}", "k{odd}": 1}}'.encode()
            assert (await door.post("/event", content=body)).status_code == 200
            line = journal(tmp_path)[-1]
            assert (line["extra"] if field == "anything" else line)[field] == f"a{_REPLACED}b"
            assert line["extra"][f"ka{_REPLACED}b"] == 1


async def test_trace_context_comes_from_header_or_event(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """`traceparent` wins over the event's own ids; a broken one is as if it were not there."""
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    named = {"trace_id": "1" * 32, "parent_span_id": "2" * 16}
    for headers, event, expected in (
        ({"traceparent": f"00-{trace}-{span}-01"}, {}, (trace, span)),
        ({"traceparent": f"00-{trace}-{span}-00"}, named, (trace, span)),
        ({"traceparent": "00-nonsense"}, named, ("1" * 32, "2" * 16)),
        ({}, named, ("1" * 32, "2" * 16)),
        ({}, {"trace_id": trace}, (trace, None)),
    ):
        answer = (await post(door, event, **headers)).json()
        line = journal(tmp_path)[-1]
        assert (answer["trace_id"], line.get("parent_span_id")) == expected
        assert (answer["trace_id"], answer["span_id"]) == (line["trace_id"], line["span_id"])
    assert (await post(door, {})).json()["trace_id"] not in (trace, "1" * 32)


async def test_gzip_is_read_and_bounded_after_decompression(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """A body may be compressed; a bomb is 413, broken gzip 400."""
    zipped = {"content-encoding": "gzip"}
    good = gzip.compress(b'{"role": "welder"}')
    assert (await door.post("/event", content=good, headers=zipped)).status_code == 200
    assert journal(tmp_path)[-1]["role"] == "welder"
    halves = gzip.compress(b'{"role": ') + gzip.compress(b'"cook"}')
    assert (await door.post("/event", content=halves, headers=zipped)).status_code == 200
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = b"".join(bomb.compress(bytes(2**20)) for _ in range(200)) + bomb.flush()
    assert len(content) < 2**20
    assert (await door.post("/event", content=content, headers=zipped)).status_code == 413
    for broken in (good[:-9], good[:5], b"{}", good + b"junk"):
        answer = await door.post("/event", content=broken, headers=zipped)
        assert (answer.status_code, bool(answer.json()["error"])) == (400, True)


async def test_a_body_in_chunks_is_read_and_bounded(door: httpx.AsyncClient) -> None:
    """Without a Content-Length the bound holds all the same."""

    async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
        yield b'{"note": "'
        for _ in range(count):
            yield b"x" * size
        yield b'"}'

    assert (await door.post("/event", content=chunks(1000, 10))).status_code == 200
    assert (await door.post("/event", content=chunks(200, 10_000))).status_code == 413


async def test_hundreds_of_megabytes_are_refused_unread(tmp_path: Path) -> None:
    """413 comes at the Content-Length; of what a sender writes all the same a part is dropped, the rest never read."""
    async with observer(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000000\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readuntil(b"}"), 30)).startswith(b"HTTP/1.1 413")
        sent, chunk = 0, bytes(100_000)
        with contextlib.suppress(ConnectionError):
            while sent < 400_000_000 - 1:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
        writer.close()
        assert sent < 200_000_000
        assert running.budget.used == 0


async def test_a_sender_of_too_much_sees_its_answer(door: httpx.AsyncClient) -> None:
    """Some clients read no answer once their sending fails: what is moderately too large is read to its end."""
    for _ in range(10):
        answer = await door.post("/event", content=bytes(8 * 2**20))
        assert (answer.status_code, bool(answer.json()["error"])) == (413, True)
    assert (await post(door, {})).status_code == 200


async def test_the_line_is_in_the_file_when_the_answer_comes(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Each of many events at once finds its own line there, and nothing of it is missing."""

    async def one(number: int) -> None:
        answer = (await post(door, {"staffer_id": f"s{number}", "success": number % 2 == 0})).json()
        mine = [line for line in journal(tmp_path) if line.get("staffer_id") == f"s{number}"]
        assert [(line["trace_id"], line["span_id"]) for line in mine] == [(answer["trace_id"], answer["span_id"])]

    await asyncio.gather(*(one(number) for number in range(100)))
    assert len(journal(tmp_path)) == 100


async def test_order_on_one_connection_is_order_in_the_file(tmp_path: Path) -> None:
    """Also for requests sent before the answers to those before them were read."""
    async with observer(tmp_path) as running:
        bodies = [json.dumps({"count": number}).encode() for number in range(200)]
        head = b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%b\r\n"
        parts = [
            head % (len(body), b"Connection: close\r\n" if number == 199 else b"") + body
            for number, body in enumerate(bodies)
        ]
        answers = await raw(running.port, b"".join(parts))
        assert answers.count(b'"accepted":true') == 200
        assert [line["count"] for line in journal(tmp_path)] == list(range(200))


async def test_the_answer_counts_the_ring(door: httpx.AsyncClient) -> None:
    """`{"accepted": true, "ring_size": n}` as ever, with the op's ids."""
    for size in (1, 2, 3):
        answer = (await post(door, {})).json()
        assert (answer.pop("accepted"), answer.pop("ring_size")) == (True, size)
        assert {name: len(text) for name, text in answer.items()} == {"trace_id": 32, "span_id": 16}


async def test_credentials_never_reach_the_journal(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """Known token shapes and named secrets are masked before the op exists."""
    secret = "sk-" + "a1B2" * 8
    await post(door, {"error": f"401 for Bearer {secret}", "features": {"api_key": "hunter2"}, "note": secret})
    text = (tmp_path / "data" / "ops.jsonl").read_text()
    assert secret not in text
    assert "hunter2" not in text
    assert journal(tmp_path)[-1]["features"]["api_key"] == "[redacted]"


async def test_any_text_in_any_field_is_taken(tmp_path: Path) -> None:
    """Whatever a sender writes into a text, the answer is 200 and the op in `/ops` is the one in the file."""
    async with observer(tmp_path) as running, client(running) as http:

        async def check(text: str, field: str) -> None:
            assert (await post(http, {field: text, f"x{text}": text})).status_code == 200
            newest = (await http.get("/ops", params={"limit": 1})).json()["ops"][0]
            assert newest == without_crc(journal(tmp_path)[-1])

        for field in ("endpoint", "error", "anything"):
            for text in _examples():
                await check(text, field)


def _examples() -> list[str]:
    found: list[str] = []

    @hypothesis_settings(max_examples=25, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(texts)
    def collect(text: str) -> None:
        found.append(text)

    collect()
    return found
