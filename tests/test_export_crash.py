"""Export over kills and bounds: with real processes, a real collector, and retention in between."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx
import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.export.cursor_file import CursorFile
from sidecar.export.journal_export import JournalSource
from sidecar.export.span_encoding import request_wrapper, span_bytes
from sidecar.spans.span_note import SpanNote
from sidecar.store.journal_file import sealed
from sidecar.store.journal_reader import JournalReader
from tests.fakes import an_op
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.processes import UNMEASURED, Process, running_observer

BATCH = 512


async def _post(observer: Process, first: int, count: int) -> None:
    """Events of these numbers, acknowledged."""
    events = [{"event_id": str(number), "success": True} for number in range(first, first + count)]
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        answer = await http.post(f"{observer.url}/events", content=json.dumps(events).encode())
        assert answer.json()["accepted"] == count


def _seen(*receivers: OtlpReceiver) -> Counter[str]:
    return Counter(str(op.event_id) for receiver in receivers for op in receiver.ops())


async def test_a_kill_repeats_the_batches_in_flight_at_most(tmp_path: Path) -> None:
    """Killed with one batch in flight, one delivered and more waiting: all arrive, each at least once."""
    async with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_METRICS_EXPORTER": "none"}
        with running_observer(tmp_path, **env, **UNMEASURED) as observer:
            await _post(observer, 0, 1)
            await asyncio.wait_for(receiver.wait_for(1), 60)
            receiver.gate.clear()
            await _post(observer, 1, 3000)
            await asyncio.wait_for(receiver.wait_arrived(2), 60)
            await asyncio.to_thread(observer.kill)
        receiver.gate.set()
        with running_observer(tmp_path, **env) as observer:
            await _post(observer, 3001, 1)
            while len(_seen(receiver)) < 3002:
                await asyncio.wait_for(receiver.wait_for(len(receiver.spans) + 1), 60)
        seen = _seen(receiver)
    assert set(seen) == {str(number) for number in range(3002)}
    assert sum(seen.values()) - len(seen) <= BATCH


async def test_kills_in_full_flow_lose_no_span(tmp_path: Path) -> None:
    """Three kills while spans stream out: every acknowledged event is at the collector in the end."""
    async with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_METRICS_EXPORTER": "none"}
        for round_number in range(3):
            with running_observer(tmp_path, **env, **UNMEASURED) as observer:
                await _post(observer, round_number * 2000, 2000)
                await asyncio.wait_for(receiver.wait_for(round_number * 2000 + BATCH), 60)
                await asyncio.to_thread(observer.kill)
        with running_observer(tmp_path, **env):
            while len(_seen(receiver)) < 6000:
                await asyncio.wait_for(receiver.wait_for(len(receiver.spans) + 1), 60)
        seen = _seen(receiver)
    assert set(seen) == {str(number) for number in range(6000)}
    assert sum(seen.values()) - len(seen) <= 3 * BATCH


class Journal:
    """A file of lines, and the source over it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ops.jsonl"
        self.path.touch()
        self.folder = folder
        self.ends = [0]

    def add(self, count: int, *, sampled: bool = True) -> None:
        """Lines of *count* ops."""
        with self.path.open("ab") as file:
            for _ in range(count):
                number = len(self.ends)
                op = an_op(op_id=str(number), trace_id=f"{number:032x}", span_id=f"{number:016x}")
                record = msgspec.json.encode(op)
                if not sampled:
                    note = msgspec.json.encode(SpanNote(unsampled=True))
                    record = b'%b,"span":%b}' % (record[:-1], note)
                file.write(sealed(record))
                self.ends.append(file.tell())

    def source(self) -> JournalSource:
        """What exports it, begun."""
        source = JournalSource(
            JournalReader(self.path),
            lambda: self.ends[-1],
            CursorFile(self.folder / "cursor"),
            encode=span_bytes,
            wrap=request_wrapper(Resource({}), InstrumentationScope("s")),
        )
        source.begin(self.ends[-1])
        return source


def _sent(source: JournalSource, most: int = 10**9) -> int:
    """Spans of the next batches, all settled."""
    count = 0
    while most and (batch := source.take()) is not None:
        source.settle(batch, len(batch.items))
        count += len(batch.items)
        most -= 1
    return count


def test_lines_of_unsampled_spans_are_passed_over(tmp_path: Path) -> None:
    """Many in a row cost a batch or two without spans; the cursor is behind them, and what follows is sent."""
    journal = Journal(tmp_path)
    source = journal.source()
    journal.add(20_000, sampled=False)
    journal.add(3)
    assert _sent(source) == 3
    assert (source.waiting_bytes, source.unreadable, source.evicted) == (0, 0, 0)


async def test_what_retention_takes_is_counted_to_the_span(tmp_path: Path) -> None:
    """Unsampled ones were none; what is on its way counts by what becomes of it."""
    journal = Journal(tmp_path)
    source = journal.source()
    journal.add(1000)
    journal.add(500, sampled=False)
    journal.add(1000)
    assert _sent(source, 1) == BATCH
    flying = source.take()
    assert flying is not None
    await source.let_go(journal.ends[2000])
    assert source.evicted == 2000 - 500 - 2 * BATCH
    source.give_back(flying, 0)  # the collector did not take it, and now it is gone
    assert source.evicted == 2000 - 500 - BATCH
    assert _sent(source) == 500
    assert source.waiting_bytes == 0
    again = journal.source()
    journal.add(3)
    assert (_sent(again), again.evicted) == (3, 0)


async def test_a_batch_on_its_way_that_is_taken_is_not_evicted(tmp_path: Path) -> None:
    """Its lines were needed no more."""
    journal = Journal(tmp_path)
    source = journal.source()
    journal.add(100)
    flying = source.take()
    assert flying is not None
    await source.let_go(journal.ends[100])
    source.settle(flying, len(flying.items))
    assert (source.evicted, source.waiting_bytes, source.take()) == (0, 0, None)


async def test_records_that_are_no_spans_cost_themselves(tmp_path: Path) -> None:
    """Unsampled, without ids, damaged: the rest goes on, and what could not be read is counted."""
    journal = Journal(tmp_path)
    source = journal.source()
    journal.add(3, sampled=False)
    with journal.path.open("ab") as file:
        file.write(sealed(msgspec.json.encode(an_op(op_id="no ids"))))
        file.write(b'{"damaged":\n')
        journal.ends.append(file.tell())
    journal.add(2)
    assert (_sent(source), source.unreadable, source.waiting_bytes) == (2, 1, 0)


async def test_large_spans_do_not_share_a_request(tmp_path: Path) -> None:
    """No request grows beyond what a collector takes; one that is larger by itself goes alone."""
    journal = Journal(tmp_path)
    source = journal.source()
    with journal.path.open("ab") as file:
        for number, size in enumerate([10, 1_500_000, 1_500_000, 3_000_000, 10], 1):
            op = an_op(op_id="x", trace_id=f"{number:032x}", span_id=f"{number:016x}", error="e" * size)
            file.write(sealed(msgspec.json.encode(op)))
            journal.ends.append(file.tell())
    sizes = []
    while (batch := source.take()) is not None:
        sizes.append(len(batch.items))
        source.settle(batch, len(batch.items))
    assert sizes == [2, 1, 1, 1]
