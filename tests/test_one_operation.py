"""One call, seen by the proxy, by the agent's own instrumentation, by Langfuse and as a scenario event, is one op."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from sidecar.model import ObservedOp
from sidecar.pipeline.observer import Observer
from sidecar.spans.received import ReceivedRecorder
from sidecar.spans.same_operation import OneOp
from sidecar.spans.span_processor import OpSpanProcessor
from tests.fakes import ManualClock, an_op
from tests.observers import FaultyFile, client, journal, observer
from tests.otlp_requests import a_request, a_span
from tests.proxied import exchange, proxied, proxy_port, raw_gateway, request
from tests.test_span_processor import ToldSink, provider_over

TRACE = "0af7651916cd43dd8448eb211c80319c"
AGENT, TOOL, CLIENT, LANGFUSE = "a" * 16, "b" * 16, "c" * 16, "e" * 16


def traceparent(span: str) -> str:
    return f"00-{TRACE}-{span}-01"


def told_span(name: str, span: str, parent: str, kind: int = 1, /, **attributes: str) -> Any:
    """A span of the trace, as an instrumentation sends it; `gen_ai__x` is the attribute `gen_ai.x`."""
    sent = a_span(
        name,
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(span),
        parent_span_id=bytes.fromhex(parent),
        kind=kind,
    )
    for key, value in attributes.items():
        sent.attributes.add(key=key.replace("__", ".")).value.string_value = value
    return sent


class Witnesses:
    """Those who can tell of one call of the tool `find`, made through the proxy."""

    def __init__(self, running: Observer, at_ns: int | None = None) -> None:
        self._running = running
        self._port = proxy_port(running)
        self.at_ns = at_ns or running.clock.time_ns()  # the proxy's call is of about this moment

    async def proxy(self) -> None:
        head = [("traceparent", traceparent(CLIENT)), ("Content-Type", "application/json")]
        await exchange(self._port, request("POST", "/tools/find", head, b'{"role": "forklift"}'))

    async def http_client(self) -> None:
        url = f"http://localhost:{self._port}/tools/find"
        await self._otlp(told_span("POST", CLIENT, TOOL, 3, http__request__method="POST", url__full=url))

    async def tool(self) -> None:
        known = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": "find"}
        await self._otlp(told_span("execute_tool find", TOOL, AGENT, **known))

    async def langfuse(self) -> None:
        known = {"langfuse__observation__type": "tool", "user__id": "ann"}
        await self._otlp(told_span("find", LANGFUSE, AGENT, **known))

    async def event(self, **more: Any) -> dict[str, Any]:
        said = {"endpoint": "scenario:find", "success": True, "city": "Toledo", "event_id": "e-1", **more}
        async with client(self._running) as http:
            answer = await http.post("/event", json=said, headers={"traceparent": traceparent(AGENT)})
            assert answer.status_code == 200, answer.text
            given: dict[str, Any] = answer.json()
            return given

    async def _otlp(self, span: Any) -> None:
        span.end_time_unix_nano = self.at_ns
        span.start_time_unix_nano = span.end_time_unix_nano - 5_000_000
        async with client(self._running) as http:
            headers = {"content-type": "application/x-protobuf"}
            answer = await http.post("/v1/traces", content=a_request(span).SerializeToString(), headers=headers)
            assert answer.status_code == 200, answer.text


@asynccontextmanager
async def witnesses(tmp_path: Path, **env: Any) -> AsyncIterator[tuple[Observer, Witnesses]]:
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, **env) as running:
        yield running, Witnesses(running)


async def counted(running: Observer) -> dict[str, Any]:
    async with client(running) as http:
        stats: dict[str, Any] = (await http.get("/stats")).json()
        return stats


@pytest.mark.parametrize("order", [*permutations(["proxy", "tool", "event"]), ("langfuse", "http_client", "proxy")])
async def test_a_call_told_of_by_several_is_counted_once(tmp_path: Path, order: tuple[str, ...]) -> None:
    """Whoever comes first, the rest of them after it."""
    others = [name for name in ("http_client", "tool", "langfuse", "event", "proxy") if name not in order]
    async with witnesses(tmp_path) as (running, all_of_them):
        for name in (*order, *others):
            before = running.ops_log.committed
            await getattr(all_of_them, name)()
            if name == "proxy":  # its op is journalled after the answer
                while running.ops_log.committed == before:  # noqa: ASYNC110 - it is on its way
                    await asyncio.sleep(0)
        stats = await counted(running)
        (op,) = running.ring.ops()
    assert (stats["total"], stats["successes"], stats["by_source"]) == (1, 1, {"mcp": 1})
    assert (op.endpoint, op.city, op.staffer_id) == ("/tools/find", "Toledo", "ann")
    assert (op.features or {})["role"] == "forklift"
    assert stats["one_operation"]["absorbed"] + stats["amendments"]["taken"] == 4


async def test_a_repeated_event_of_a_known_call_is_acknowledged_and_known(tmp_path: Path) -> None:
    """Its id is in the journal though another told of the call first: again it is a repetition, after a restart too."""
    async with observer(tmp_path, OBSERVER_PROXY_PORT="0") as running:
        told = Witnesses(running)
        await told.tool()
        first = await told.event()
        assert await told.event() == {**first, "ring_size": 1}
        assert running.intake.repeats == 1
    async with observer(tmp_path, OBSERVER_PROXY_PORT="0") as running:
        again = await Witnesses(running).event()
        assert (again["trace_id"], again["span_id"]) == (first["trace_id"], first["span_id"])
        assert len(running.ring) == 1
    assert [line.get("event_id") for line in journal(tmp_path)] == [None, "e-1"]


async def test_what_a_crash_left_unacknowledged_is_told_again_and_counted_once(tmp_path: Path) -> None:
    """A span that was journalled, sent again after a restart, is the same op; so is what it is inside of."""
    async with observer(tmp_path, OBSERVER_PROXY_PORT="0") as running:
        told = Witnesses(running)
        await told.tool()
        await told.langfuse()
    async with observer(tmp_path, OBSERVER_PROXY_PORT="0") as running:
        told = Witnesses(running, told.at_ns)
        await told.langfuse()
        await told.tool()
        assert (await counted(running))["total"] == 1


async def test_an_op_that_was_not_written_is_none(tmp_path: Path) -> None:
    """A full disk refuses the first report: the second is journalled as it is, and amends nothing."""
    file = FaultyFile.fresh()
    async with observer(tmp_path, open_file=file, OBSERVER_PROXY_PORT="0") as running:
        told = Witnesses(running)
        file.failure = OSError(errno.ENOSPC, "full")
        with pytest.raises(AssertionError, match="did not accept"):
            await told.tool()
        file.failure = None
        await told.langfuse()
        await told.tool()
        assert (await counted(running))["total"] == 1
    assert [line.get("amends") is None for line in journal(tmp_path)] == [True, False]


def test_what_adds_nothing_has_the_receipt_of_what_is_known() -> None:
    """Its door waits for that one."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    first, again = (recorded(processor, span="b" * 16) for _ in range(2))
    assert first is again
    assert (len(sink.kept), processor.one.absorbed) == (1, 1)


def test_an_op_without_room_is_not_remembered() -> None:
    """Sent again it is taken, not passed over as known."""
    sink = ToldSink(full=True)
    processor = OpSpanProcessor(sink, ManualClock())
    assert recorded(processor) is None
    sink._full = False
    assert recorded(processor) is not None


def test_an_op_that_cannot_be_matched_is_taken_as_it_came() -> None:
    """A fault in there costs a second count at most."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    processor.one = Broken()
    assert recorded(processor) is not None
    assert (len(sink.kept), processor.unmatched, processor.lost) == (1, 1, 0)


class Broken(OneOp):
    def look(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")


def recorded(processor: OpSpanProcessor, span: str = TOOL) -> Any:
    known = {"trace_id": TRACE, "span_id": span, "parent_span_id": AGENT, "source": "otlp"}
    op = an_op(op_id=f"op-{span}", extra={"gen_ai.operation.name": "execute_tool"}, **known)
    return ReceivedRecorder(provider_over(processor)).witness(op)


def test_another_observers_wrapper_is_not_our_proxy() -> None:
    """A wrapped call that comes by OTLP and goes through our proxy is one, though both are calls to the gateway."""
    sink = ToldSink()
    processor = OpSpanProcessor(sink, ManualClock())
    wrapped = an_op(op_id="w", trace_id=TRACE, span_id=CLIENT, source="mcp")
    ReceivedRecorder(provider_over(processor)).witness(wrapped)
    proxied_op: ObservedOp = an_op(op_id="p", trace_id=TRACE, span_id="d" * 16, parent_span_id=CLIENT, source="mcp")
    said, _ = processor.one.look(proxied_op, 0.0)
    assert said is not None
    assert said.amends == "w"
