"""Ops of ended calls are made a few at a time, in the order in which the calls ended, and none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext

from sidecar.gateway import proxy_calls
from sidecar.gateway.proxied_call import PREFIX_BYTES, ProxiedCall
from sidecar.gateway.proxy_calls import CallRecorder
from sidecar.gateway.proxy_head import RequestHead
from sidecar.gateway_address import GatewayAddress
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.protocols import BegunCall
from sidecar.redaction import Redactor
from sidecar.spans.recorder import OpRecorder
from tests.fakes import KeptSpans, ManualClock
from tests.proxied import exchange, raw_gateway, request
from tests.test_proxy_ops import alone

_SLOW_S = 0.0006  # what an op takes here: two of them are a turn
_CALLS = 9


class SlowSpans:
    """Each op takes time; *turns* has for each turn of the loop the ops that were made in it."""

    def __init__(self, clock: ManualClock) -> None:
        self._spans = OpRecorder(TracerProvider(shutdown_on_exit=False))
        self._clock = clock
        self.turns: list[list[str]] = [[]]
        self.made = 0

    def begin(self, name: str, parent: SpanContext | None) -> BegunCall:
        return self._spans.begin(name, parent)

    def end(self, _call: BegunCall, op: ObservedOp, _times: tuple[int, int], _beside: Mapping[str, Any]) -> ObservedOp:
        self._clock._now_ns += int(_SLOW_S * 1e9)
        self.turns[-1].append(op.endpoint)
        self.made += 1
        return op


class Bench:
    """A recorder of calls, and the turns in which it makes their ops."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.spans = SlowSpans(clock)
        self.recorder = CallRecorder(
            self.spans, Normalizer(Redactor()), clock, GatewayAddress.of("http://127.0.0.1:80")
        )
        self.recorder.open(asyncio.get_running_loop())

    def call(self, name: str, captured: bytes = b"") -> ProxiedCall:
        call = self.recorder.begin(RequestHead(b"GET", b"/" + name.encode(), (), http10=False, close=False))
        self.recorder.start(call)
        call.response_body.add(captured)
        return call

    async def turns(self, count: int) -> list[list[str]]:
        """The ops made in each turn, once there are *count*."""
        async with asyncio.timeout(20):
            while self.spans.made < count:
                await asyncio.sleep(0)
                self.spans.turns.append([])
        return [turn for turn in self.spans.turns if turn]


_NAMES = [f"/{chr(ord('a') + number)}" for number in range(_CALLS)]


async def test_others_have_a_turn_between_a_few_ops() -> None:
    """Calls that end together do not hold the loop up for the time of all their ops."""
    bench = Bench()
    for name in _NAMES:
        bench.recorder.ended(bench.call(name[1:]))
    turns = await bench.turns(_CALLS)
    assert [len(turn) for turn in turns] == [2, 2, 2, 2, 1]
    assert [name for turn in turns for name in turn] == _NAMES
    bench.recorder.ended(bench.call("late"))
    assert (await bench.turns(_CALLS + 1))[-1] == ["/late"]


async def test_calls_that_end_faster_than_ops_are_made_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound more are made in a turn, so that only so many wait."""
    monkeypatch.setattr(proxy_calls, "_MOST_ENDED", 3)
    bench = Bench()
    for name in _NAMES:
        bench.recorder.ended(bench.call(name[1:]))
    assert [len(turn) for turn in await bench.turns(_CALLS)] == [_CALLS - 3, 2, 1]


async def test_bodies_that_wait_leave_room_for_those_of_the_next_calls() -> None:
    """What ended calls have captured is let go of before the next ones could find no room."""
    bench = Bench()
    many = bench.recorder.budget._most // PREFIX_BYTES
    for _ in range(many):
        bench.recorder.ended(bench.call("long", b"x" * PREFIX_BYTES))
    first, *_ = await bench.turns(many)
    assert len(first) >= many // 4
    assert (bench.recorder.budget.used, bench.recorder.budget.refused) == (0, 0)


async def test_no_call_is_left_at_the_end() -> None:
    """At stop the rest is made at once, in the same order; the turn that was due finds nothing to do."""
    bench = Bench()
    for name in _NAMES:
        bench.recorder.ended(bench.call(name[1:]))
    bench.recorder.record_ended()
    assert bench.spans.turns == [_NAMES]
    bench.recorder.ended(bench.call("more"))
    await bench.turns(_CALLS + 1)
    assert (bench.spans.made, bench.recorder.lost) == (_CALLS + 1, 0)


async def test_a_proxy_that_stops_makes_the_ops_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn that they waited for would come too late."""
    monkeypatch.setattr(proxy_calls, "_GATHER_S", 3600)
    kept = KeptSpans()
    async with raw_gateway() as gateway, asyncio.TaskGroup() as tasks:
        proxy = await alone(gateway, OpRecorder(kept.provider), tasks)
        for name in "abc":
            await exchange(proxy.port, request("GET", f"/{name}"))
        assert kept.exporter.get_finished_spans() == ()
        await proxy.stop()
    assert [span.name for span in kept.exporter.get_finished_spans()] == ["/a", "/b", "/c"]
