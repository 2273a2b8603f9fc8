"""`ObserverService`, health and reflection, with real gRPC clients against a running observer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from hypothesis import given
from msgspec.structs import replace

from sidecar.model import MOST_DURATION_MS, Incident, ObservedOp
from sidecar.model_learning import PlaybookEntry
from sidecar.normalize import Normalizer
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pipeline.observer import Observer
from sidecar.receivers import op_messages
from sidecar.receivers.event_fields import event_op
from sidecar.receivers.observer_service import _OUTSTANDING, _page
from sidecar.redaction import Redactor
from tests.fakes import an_op
from tests.grpc_service import SERVICE, service
from tests.observers import FaultyFile, client, cycle, journal
from tests.strategies import ops

NORMALIZER = Normalizer(Redactor([]))


def an_event(**fields: Any) -> pb.ObservedOp:
    return pb.ObservedOp(**{"endpoint": "/tools/fill", "success": True, **fields})


def unsettled(running: Observer) -> int:
    """The number of operations that wait for the disk."""
    writing = running.ops_log._writing
    return len(running.ops_log._batch.receipts) + (len(writing.receipts) if writing is not None else 0)


async def next_op(answers: Any) -> pb.ObservedOp:
    """The next operation of a Watch."""
    answer = await answers.read()
    assert answer is not grpc.aio.EOF
    assert answer.WhichOneof("event") == "op", answer
    op: pb.ObservedOp = answer.op
    return op


@given(ops())
def test_an_op_is_the_same_as_a_message(op: ObservedOp) -> None:
    """The normalised op, by way of the wire and of an event's fields, is the op that it was."""
    normal = NORMALIZER.op(op)
    if normal.duration_ms > MOST_DURATION_MS:  # a sender's would be refused
        normal = replace(normal, duration_ms=MOST_DURATION_MS)
    message = pb.ObservedOp.FromString(op_messages.op_message(normal).SerializeToString())
    event = op_messages.event_of(message)
    again = event_op(event, normal.timestamp, NORMALIZER)
    given_by_us = {"op_id", "v", "rescue_attempted", "rescue_succeeded", "source"}
    for name in set(ObservedOp.__struct_fields__) - given_by_us:
        was, now = getattr(normal, name), getattr(again, name)
        assert (type(now), now) == (type(was), was) or (not was and not now), name


async def test_an_operation_is_recorded_as_by_event(tmp_path: Path) -> None:
    """On disk when it is acknowledged, under the caller's trace, once by its id."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    number = pb.Number(double_value=1.0)
    op = an_event(event_id="e1", count=number, features={"age": pb.Scalar(int_value=3)}, op_id="mine", span_id="mine")
    async with service(tmp_path) as (running, stub, _):
        caller = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
        answer = await stub.Record(pb.RecordRequest(op=op), metadata=caller)
        (line,) = journal(tmp_path)
        again = await stub.Record(pb.RecordRequest(op=op), metadata=caller)
        keyed = (("idempotency-key", "k"),)
        for _ in range(2):
            await stub.Record(pb.RecordRequest(op=an_event()), metadata=keyed)
        assert len(running.ring) == 2
    assert (answer.trace_id, answer.ring_size) == (trace, 1)
    assert (again.trace_id, again.span_id) == (answer.trace_id, answer.span_id)
    assert (line["span_id"], line["count"], line["features"]) == (answer.span_id, 1.0, {"age": 3})
    assert line["op_id"] != "mine"


async def test_a_wrong_field_is_named_in_the_details(tmp_path: Path) -> None:
    """INVALID_ARGUMENT with `BadRequest`; another payload under a known id is ALREADY_EXISTS."""
    async with service(tmp_path) as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await stub.Record(pb.RecordRequest(op=an_event(timestamp="yesterday")))
        await stub.Record(pb.RecordRequest(op=an_event(event_id="e")))
        with pytest.raises(grpc.aio.AioRpcError) as taken:
            await stub.Record(pb.RecordRequest(op=an_event(event_id="e", city="Reno")))
    assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = Status.FromString(dict(wrong.value.trailing_metadata())["grpc-status-details-bin"])
    detail = BadRequest()
    assert status.details[0].Unpack(detail)
    assert detail.field_violations[0].field == "timestamp"
    assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_message_that_is_none_is_refused(tmp_path: Path) -> None:
    """Bytes that are not the request, and one that is over the bound of an event."""
    async with service(tmp_path) as (_, _stub, channel):
        call = channel.unary_unary(f"/{SERVICE}/Record")
        for raw, said in ((b"\xff\xff", "cannot be read"), (bytes(2**20 + 1), "1048576")):
            with pytest.raises(grpc.aio.AioRpcError, match=said) as refused:
                await call(raw)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_is_answered_message_by_message(tmp_path: Path) -> None:
    """In order, each with its own result; a wrong one costs itself."""
    async with service(tmp_path) as (running, stub, _):
        stream = stub.RecordStream()
        for op in (an_event(), an_event(timestamp="yesterday"), an_event(event_id="e"), an_event(event_id="e")):
            await stream.write(pb.RecordStreamRequest(op=op))
        await stream.done_writing()
        results = [result async for result in stream]
        assert len(running.ring) == 2
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [result.WhichOneof("result") for result in results] == ["recorded", "rejected", "recorded", "recorded"]
    assert results[1].rejected.code == 3
    assert "timestamp" in results[1].rejected.message
    assert results[2].recorded.span_id == results[3].recorded.span_id


async def test_large_operations_keep_their_place(tmp_path: Path) -> None:
    """They are read beside the event loop: in a stream in their order, refused like others, once by their id."""
    large = "password: hunter2 " * 5000
    ops = [an_event(input_summary=large), an_event(city="Reno"), an_event(timestamp="soon", input_summary=large)]
    async with service(tmp_path) as (running, stub, _):
        stream = stub.RecordStream()
        for op in ops:
            await stream.write(pb.RecordStreamRequest(op=op))
        await stream.done_writing()
        answers = [answer async for answer in stream]
        for _ in range(2):
            await stub.Record(pb.RecordRequest(op=an_event(event_id="e", input_summary=large)))
        assert running.intake.invalid == 1
    assert [answer.WhichOneof("result") for answer in answers] == ["recorded", "recorded", "rejected"]
    first, second, third = journal(tmp_path)
    assert (second.get("city"), third["event_id"]) == ("Reno", "e")
    assert first["input_summary"] == third["input_summary"] == "password: [redacted] " * 5000


async def test_a_stream_of_many_is_held_back_not_refused(tmp_path: Path) -> None:
    """A sender that writes all before it reads: all are recorded, in the order of the stream."""
    many = 3000

    async def requests() -> AsyncIterator[pb.RecordStreamRequest]:
        for number in range(many):
            yield pb.RecordStreamRequest(op=an_event(endpoint=f"/{number}"))

    async with service(tmp_path, OBSERVER_RING="10000") as (_, stub, _channel):
        results = [result async for result in stub.RecordStream(requests())]
    assert [result.index for result in results] == list(range(many))
    assert {result.WhichOneof("result") for result in results} == {"recorded"}
    assert [line["endpoint"] for line in journal(tmp_path)] == [f"/{number}" for number in range(many)]


async def test_a_stream_says_which_operations_the_disk_refused(tmp_path: Path) -> None:
    """UNAVAILABLE in the result: the same may succeed later, and the stream goes on."""
    file = FaultyFile.fresh()
    async with service(tmp_path, open_file=file) as (_, stub, _channel):
        stream = stub.RecordStream()
        file.failure = OSError(28, "No space left on device")
        await stream.write(pb.RecordStreamRequest(op=an_event()))
        refused = await stream.read()
        file.failure = None
        await stream.write(pb.RecordStreamRequest(op=an_event()))
        recorded = await stream.read()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
    assert (refused.index, refused.rejected.code) == (0, 14)
    assert (recorded.index, recorded.WhichOneof("result")) == (1, "recorded")


async def test_clients_that_leave_a_full_stream_leave_its_place(tmp_path: Path) -> None:
    """More of them than there are places, each gone while its results wait for the disk."""
    file = FaultyFile.fresh()

    async def endless() -> AsyncIterator[pb.RecordStreamRequest]:
        while True:
            yield pb.RecordStreamRequest(op=an_event())

    async with service(tmp_path, open_file=file) as (running, stub, _channel), asyncio.timeout(120):
        file.open_gate.clear()
        for _ in range(10):
            before = unsettled(running)
            stream = stub.RecordStream(endless())
            while unsettled(running) < before + _OUTSTANDING + 2:  # one is being sent, for one there is no room
                await stub.GetStats(pb.GetStatsRequest())
            stream.cancel()
        file.open_gate.set()
        while True:  # the last of them may be leaving yet
            last = stub.RecordStream(iter([pb.RecordStreamRequest(op=an_event())]))
            try:
                results = [result async for result in last]
                break
            except grpc.aio.AioRpcError:  # there is no room for it
                await stub.GetStats(pb.GetStatsRequest())
        assert [result.WhichOneof("result") for result in results] == ["recorded"]


async def test_watch_shows_what_is_wanted_as_it_settles(tmp_path: Path) -> None:
    """By field and by success, whatever door it came in by."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        watch = stub.Watch(pb.WatchRequest(equals={"city": "Reno"}, success=False))
        await watch.initial_metadata()
        for city, success in (("Boise", False), ("Reno", True), ("Reno", False)):
            await http.post("/event", json={"city": city, "success": success, "error": "no", "count": 2.0})
        op = await next_op(watch)
        assert (op.city, op.success, op.count.double_value) == ("Reno", False, 2.0)
        watch.cancel()


async def test_a_cancelled_watch_frees_its_subscription(tmp_path: Path) -> None:
    """So does a deadline that passes."""
    async with service(tmp_path) as (running, stub, _):
        cancelled = stub.Watch(pb.WatchRequest())
        await cancelled.initial_metadata()
        late = stub.Watch(pb.WatchRequest(), timeout=3.0)
        await late.initial_metadata()
        assert running.feed.watchers == 2
        cancelled.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await late.read()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(120):
            while running.feed.watchers:
                await stub.GetStats(pb.GetStatsRequest())


async def test_a_watch_ends_when_the_observer_stops(tmp_path: Path) -> None:
    """It does not hold up the stop, and what it was told is whole."""
    async with service(tmp_path) as (running, stub, _):
        watch = stub.Watch(pb.WatchRequest())
        await watch.initial_metadata()
        assert running.feed.watchers == 1
        running.feed.close()
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_an_unknown_filter_is_refused(tmp_path: Path) -> None:
    """Rather than showing everything, or nothing."""
    async with service(tmp_path) as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError, match=r"colour.*endpoint, source, staffer_id") as refused:
            await stub.Watch(pb.WatchRequest(equals={"colour": "red"})).read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_was_counted_and_learnt_is_listed(tmp_path: Path) -> None:
    """The same as `/stats`, `/incidents` and `/playbooks` say."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        for number in range(6):
            error = {"error": f"office {'AB'[number % 2]} is closed", "success": False}
            await http.post(
                "/event", json={"endpoint": f"/{number % 2}", "staffer_id": "s", **(error if number else {})}
            )
            await http.post("/event", json={"endpoint": "/good", "success": True, "input_summary": f"a {number}"})
        for _ in range(5):
            await cycle(running)
        stats = await stub.GetStats(pb.GetStatsRequest())
        incidents = (await stub.ListIncidents(pb.ListIncidentsRequest())).incidents
        playbooks = (await stub.ListPlaybooks(pb.ListPlaybooksRequest())).playbooks
        said = (await http.get("/stats")).json()
        listed = {name: (await http.get(f"/{name}")).json()[name] for name in ("incidents", "playbooks")}
    assert (stats.total, stats.successes, stats.failures) == (said["total"], said["successes"], said["failures"])
    assert dict(stats.by_source) == said["by_source"]
    assert [op.ts for op in stats.recent_scenario_ops] == [op["ts"] for op in said["recent_scenario_ops"]]
    assert {each.fingerprint: each.count for each in incidents} == {
        each["fingerprint"]: each["count"] for each in listed["incidents"]
    }
    assert [each.diagnosis for each in incidents if each.diagnosis]
    assert incidents[0].evidence[0].span_id
    assert len(playbooks) == 1
    assert {each.playbook_id for each in playbooks} == {each["playbook_id"] for each in listed["playbooks"]}


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    """Each incident once, most recent first, with page tokens; a wrong token or size is refused."""
    async with service(tmp_path) as (running, stub, _):
        for number in range(7):
            at = f"2026-01-01T00:00:0{number}.000Z"
            running.books.incidents.consume(
                an_op(
                    endpoint=f"/{number}", success=False, error="no", timestamp=at, trace_id="1" * 32, span_id="1" * 16
                )
            )
        seen: list[str] = []
        token = ""
        while True:
            page = await stub.ListIncidents(pb.ListIncidentsRequest(page_size=3, page_token=token))
            assert 1 <= len(page.incidents) <= 3
            seen += [each.endpoint for each in page.incidents]
            token = page.next_page_token
            if not token:
                break
        assert seen == [f"/{number}" for number in reversed(range(7))]
        for wrong in (pb.ListIncidentsRequest(page_token="?"), pb.ListIncidentsRequest(page_size=-1)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListIncidents(wrong)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_page_begins_where_the_one_before_ended() -> None:
    """Also when newer items came in between."""
    items = [f"{number}" for number in range(5)]
    page, token = _page(items, lambda item: (item, item), 2, "")
    assert page == ["4", "3"]
    assert _page([*items, "5", "6"], lambda item: (item, item), 2, token)[0] == ["2", "1"]


def test_incidents_and_entries_are_said_whole() -> None:
    """Every field of them that is set."""
    incident = Incident(
        fingerprint="f",
        endpoint="/e",
        message="m",
        state="new",
        kind="failure",
        count=2,
        first_seen="a",
        last_seen="b",
        by_source={"mcp": 2},
        evidence=[("t", "s")],
        samples=["one"],
        diagnosis="d",
    )
    message = op_messages.incident_message(incident)
    assert (message.by_source["mcp"], message.evidence[0].trace_id, list(message.samples)) == (2, "t", ["one"])
    assert not message.HasField("error_type")
    entry = PlaybookEntry(
        playbook_id="p", version=2, at="a", kind="do", endpoint="/e", text="t", successes=3, avg_duration_ms=1.5
    )
    assert op_messages.playbook_message(entry).avg_duration_ms == 1.5
