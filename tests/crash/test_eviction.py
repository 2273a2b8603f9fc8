"""A collector that is away for longer than the journal has room: what never arrives is counted, to the span."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

from tests.crash.events import TOOLS
from tests.crash.http_client import HttpConnection
from tests.crash.journal import segments
from tests.crash.load import dumps
from tests.crash.rounds import stats_of
from tests.crash.servers import Collector
from tests.processes import PATIENCE_S, UNMEASURED, observer_life

_BATCHES, _BATCH = 100, 20
_NOTE = "x" * 8000  # 16 MiB in all
_FOLDER_BYTES = 2**24
_KEPT_BYTES = _FOLDER_BYTES // 2 * 7 // 8  # operations may have half of it, of which an eighth is kept free


async def test_missing_spans_are_counted_as_evicted(tmp_path: Path) -> None:
    """Also over a kill: spans that arrived, and spans that were counted, are all that were acknowledged."""
    collector = Collector()
    await collector.restore()
    settings = {
        **UNMEASURED,
        "OBSERVER_CYCLE": "0.2",
        "OBSERVER_DATA_MAX_BYTES": str(_FOLDER_BYTES),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    await collector.cut()
    async with observer_life(tmp_path, **settings) as observer:
        accepted = await _post(int(observer.url.rpartition(":")[2]))
        async with asyncio.timeout(PATIENCE_S):  # the bound is looked at every two seconds
            while _journalled(tmp_path / "data") > _KEPT_BYTES:
                await collector.wait_taken(1, 0.1)
        counted = (await stats_of(observer))["lost"]["export_evicted"]
        await asyncio.to_thread(observer.kill)
    await collector.restore()
    async with observer_life(tmp_path, **settings) as observer:
        async with asyncio.timeout(PATIENCE_S):
            while len(collector.spans) + counted + (await stats_of(observer))["lost"]["export_evicted"] < accepted:
                await collector.wait_taken(collector.taken + 1, 0.5)
        counted += (await stats_of(observer))["lost"]["export_evicted"]
    await collector.cut()
    assert accepted == _BATCHES * _BATCH
    assert counted > 0
    assert len(collector.spans) + counted == accepted


async def _post(port: int) -> int:
    http = HttpConnection(port)
    accepted = 0
    events = [{"endpoint": f"{TOOLS}evicted", "success": True, "note": _NOTE}] * _BATCH
    for _ in range(_BATCHES):
        status, answer = await http.request("POST", "/events", dumps(events))
        assert status == 200
        accepted += int(json.loads(answer)["accepted"])
    http.drop()
    return accepted


def _journalled(data: Path) -> float:
    """Bytes of operations; without end where a file went meanwhile."""
    try:
        return sum(path.stat().st_size for path in segments(data))
    except FileNotFoundError:
        return math.inf
