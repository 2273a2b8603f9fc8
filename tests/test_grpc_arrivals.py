"""Messages that arrive over gRPC: so many at a time, each within its time, and none of them at other doors' expense."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it has no types

from sidecar.errors import OverloadedError
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub
from sidecar.receivers.grpc_arrivals import Arrivals
from tests.observers import client
from tests.otlp_doors import channel, doors
from tests.otlp_requests import a_request, a_span, an_op_span

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
EVENT = {"endpoint": "/tools/fill", "success": True}


async def silent_calls(opened: Any, count: int) -> list[Any]:
    """Calls that were opened and have no message yet; they are at the server when this returns."""
    calls = [opened.stream_unary(EXPORT)() for _ in range(count)]
    await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest())  # behind them on the connection
    return calls


async def failure(call: Any) -> tuple[grpc.StatusCode, int]:
    """The code that *call* ends with, and when it may come again, in seconds."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    details = Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"]).details
    return refused.value.code(), len(details)


async def test_calls_without_a_message_close_no_other_door(tmp_path: Path) -> None:
    """They hold nothing that HTTP needs: an event is taken meanwhile, and so is a health check."""
    async with doors(tmp_path) as running, channel(running) as opened, client(running) as http:
        calls = await silent_calls(opened, 66)
        answer = await http.post("/event", json=EVENT)
        assert (answer.status_code, running.budget.used) == (200, 0)
        for call in calls:
            call.cancel()


async def test_a_message_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    """After the time that an HTTP client has for its request; it may be sent again."""
    async with doors(tmp_path, OBSERVER_BODY_TIMEOUT="0.2") as running, channel(running) as opened:
        (call,) = await silent_calls(opened, 1)
        assert await failure(call) == (grpc.StatusCode.UNAVAILABLE, 1)
        await opened.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        assert (len(running.ring), running.otlp.overloads) == (1, 1)


async def test_silent_calls_make_room_for_one_that_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were first, and hold all the room; it need not wait until their time is over."""
    monkeypatch.setattr("sidecar.receivers.grpc_arrivals._PATIENCE_S", 0.1)
    async with doors(tmp_path) as running, channel(running) as opened, channel(running) as other:
        calls = await silent_calls(opened, 12)
        await other.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        assert len(running.ring) == 1
        assert {await failure(call) for call in calls} == {(grpc.StatusCode.UNAVAILABLE, 1)}


async def test_so_many_messages_arrive_at_a_time() -> None:
    """What is behind them waits unread, in order."""
    arrivals = Arrivals(2, 0, 60)
    let_go = [asyncio.Event() for _ in range(4)]
    arriving: list[int] = []

    async def one(number: int) -> None:
        async with arrivals.message():
            arriving.append(number)
            await let_go[number].wait()

    tasks = [asyncio.create_task(one(number)) for number in range(4)]
    await _turns()
    assert arriving == [0, 1]
    let_go[1].set()
    await _turns()
    assert arriving == [0, 1, 2]
    for event in let_go:
        event.set()
    await asyncio.gather(*tasks)
    assert arriving == [0, 1, 2, 3]


async def test_a_slow_message_makes_room_where_others_wait() -> None:
    """Alone it would have had a minute."""
    arrivals = Arrivals(1, 0, 60)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(arrivals.message())
        (deadline,) = arrivals._arriving
        alone = deadline.when()
        waiting = asyncio.create_task(arrivals.message().__aenter__())
        await _turns()
        hurried = deadline.when()
        assert alone is not None
        assert hurried is not None
        assert hurried < alone - 50
        assert hurried > loop.time() - 50
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting


async def test_only_so_many_calls_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transport holds the beginning of each one's message: others are told to come again."""
    monkeypatch.setattr("sidecar.receivers.grpc_arrivals._MOST_WAITING", 1)
    arrivals = Arrivals(1, 0, 60)
    async with arrivals.message():
        waiting = asyncio.create_task(arrivals.message().__aenter__())
        await _turns()
        with pytest.raises(OverloadedError):
            await arrivals.message().__aenter__()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    assert arrivals.refused == 1


async def test_streams_are_bounded_each_may_bring_the_largest_message(tmp_path: Path) -> None:
    """One more is told to come again; where another has ended it is served."""
    async with doors(tmp_path) as running, channel(running) as opened:
        streams = [await _stream(opened) for _ in range(16)]
        refused = _stub(opened).RecordStream()
        assert await failure(refused.read()) == (grpc.StatusCode.UNAVAILABLE, 1)
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        await _stream(opened)
        assert running.ring.successes == 17


async def test_a_collectors_batch_is_taken_compressed(tmp_path: Path) -> None:
    """8192 spans, 12 MiB: gzip brings them under what a message may have as sent."""
    request = a_request(*[a_span(f"span {number}", trace_state="x" * 1400) for number in range(8192)])
    async with doors(tmp_path) as running, channel(running) as opened:
        await opened.unary_unary(EXPORT)(request.SerializeToString(), compression=grpc.Compression.Gzip)
        assert (running.otlp.intake.spans, running.budget.used) == (8192, 0)


async def _stream(opened: Any) -> Any:
    """A stream that is served: it has recorded one op."""
    stream = _stub(opened).RecordStream()
    await stream.write(pb.RecordStreamRequest(op=pb.ObservedOp(endpoint="/tools/fill", success=True)))
    assert (await stream.read()).HasField("recorded")
    return stream


def _stub(opened: Any) -> Any:
    return ObserverServiceStub(opened)  # type: ignore[no-untyped-call]  # generated


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
