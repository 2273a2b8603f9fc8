"""Messages that arrive over gRPC: so many at a time, each within its time, and none of them at other doors' expense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
    async with doors(tmp_path, OBSERVER_BODY_TIMEOUT="2") as running, channel(running) as opened:
        (call,) = await silent_calls(opened, 1)
        assert await failure(call) == (grpc.StatusCode.UNAVAILABLE, 1)
        await opened.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        assert (len(running.ring), running.otlp.overloads) == (1, 1)


async def test_silent_calls_make_room_for_one_that_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were first, and hold all the room; it need not wait until their time is over."""
    monkeypatch.setattr("sidecar.receivers.grpc_arrivals._PATIENCE_S", 1.0)
    async with doors(tmp_path) as running, channel(running) as opened, channel(running) as other:
        calls = await silent_calls(opened, 12)
        await other.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        assert len(running.ring) == 1
        assert await failure(calls[0]) == (grpc.StatusCode.UNAVAILABLE, 1)
        for call in calls:
            call.cancel()


async def test_silent_calls_do_not_delay_a_connection_that_has_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are on however many connections, and however long they may hold their places."""
    monkeypatch.setattr("sidecar.receivers.grpc_arrivals._PATIENCE_S", 3600.0)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(doors(tmp_path, OBSERVER_BODY_TIMEOUT="3600"))
        known = await stack.enter_async_context(channel(running))
        await known.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        others = [await stack.enter_async_context(channel(running)) for _ in range(4)]
        calls = [call for other in others for call in await silent_calls(other, 40)]
        for _ in range(3):
            await known.unary_unary(EXPORT)(a_request(an_op_span()).SerializeToString())
        assert len(running.ring) == 4
        for call in calls:
            call.cancel()


class Callers:
    """Calls at *arrivals*, each of a connection; `admitted` names those that have had a place, in order."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._may_end: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.admitted: list[str] = []

    async def open(self, *names: str) -> None:
        """Calls named `connection` or `connection.number`; returns when each is admitted, waits or was refused."""
        for name in names:
            self._may_end[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name))
            await _turns()

    async def speak(self, *names: str) -> None:
        """Their messages arrive."""
        for name in names:
            self._may_end[name].set()
            await _turns()

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _call(self, name: str) -> None:
        async with self._arrivals.message(name.partition(".")[0]):
            self.admitted.append(name)
            await self._may_end[name].wait()


@pytest.fixture
async def callers(request: pytest.FixtureRequest) -> AsyncIterator[Callers]:
    """Calls at three places: two for all, one for connections that have spoken."""
    calls = Callers(Arrivals(3, 0, 3600))
    yield calls
    await calls.end()


async def test_so_many_messages_arrive_at_a_time(callers: Callers) -> None:
    """What is behind them waits unread, in order."""
    await callers.open("a", "b", "c", "d", "e")
    assert callers.admitted == ["a", "b"]
    await callers.speak("b")
    assert callers.admitted == ["a", "b", "c"]
    await callers.speak("a", "c", "d", "e")
    assert callers.admitted == ["a", "b", "c", "d", "e"]


async def test_one_place_is_kept_for_connections_that_have_spoken(callers: Callers) -> None:
    """Others wait before it."""
    await callers.open("known")
    await callers.speak("known")
    await callers.open("a", "b", "c", "known.2")
    assert callers.admitted == ["known", "a", "b", "known.2"]


async def test_a_connection_with_many_calls_waits_behind_one_with_few(callers: Callers) -> None:
    """It has the places already, and its other calls came first."""
    await callers.open("many.1", "other", "many.2", "few")
    await callers.speak("other")
    assert callers.admitted == ["many.1", "other", "few"]


async def test_a_connection_that_was_silent_comes_last(callers: Callers) -> None:
    """Its call ended without a message; one that is not known yet goes first, though it came later."""
    await callers.open("silent", "a", "b")
    callers.tasks["silent"].cancel()
    await _turns()
    await callers.open("silent.2", "new")
    await callers.speak("a")
    assert callers.admitted == ["silent", "a", "b", "new"]


async def test_where_too_many_wait_the_last_in_rank_is_refused(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one that came last: the transport holds the beginning of each one's message, so some have to go."""
    monkeypatch.setattr("sidecar.receivers.grpc_arrivals._MOST_WAITING", 2)
    await callers.open("many.1", "other", "many.2", "many.3", "few")
    with pytest.raises(OverloadedError):
        await callers.tasks["many.3"]
    await callers.speak("other", "few")
    assert callers.admitted == ["many.1", "other", "few", "many.2"]


async def test_a_call_that_ends_in_the_moment_of_its_admission_gives_its_place_back(callers: Callers) -> None:
    """As one does that ends while it waits, in the same turn of the loop."""
    await callers.open("a", "b", "c", "d", "e")
    callers.tasks["c"].cancel()  # waits, and is not to be admitted any more
    await callers.speak("a")
    assert callers.admitted[2:] == ["d"]
    callers._may_end["b"].set()
    await asyncio.sleep(0)  # `b` has ended and `e` is admitted, but has not run
    callers.tasks["e"].cancel()
    await _turns()
    await callers.open("f", "g")
    assert callers.admitted[3:] == ["f"]


async def test_a_slow_message_makes_room_where_others_wait() -> None:
    """Alone it would have had an hour."""
    arrivals = Arrivals(1, 0, 3600)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(arrivals.message("slow"))
        (call,) = arrivals._arriving
        alone = call.deadline.when()
        waiting = asyncio.create_task(arrivals.message("waiting").__aenter__())
        await _turns()
        hurried = call.deadline.when()
        assert alone is not None
        assert hurried is not None
        assert hurried < alone - 3000
        assert hurried > loop.time() - 3000
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting


async def test_streams_are_bounded_each_may_bring_the_largest_message(tmp_path: Path) -> None:
    """One more is told to come again; where another has ended it is served."""
    async with doors(tmp_path) as running, channel(running) as opened:
        streams = [await _stream(opened) for _ in range(8)]
        refused = _stub(opened).RecordStream()
        assert await failure(refused.read()) == (grpc.StatusCode.UNAVAILABLE, 1)
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        await _stream(opened)
        assert running.ring.successes == 9


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
