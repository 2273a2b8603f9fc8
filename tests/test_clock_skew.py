"""Received spans of a sender whose clock is ahead: their op ended when it was taken, so an incident can be resolved."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.model import ObservedOp
from sidecar.spans.clock_skew import ended_by, taken_by
from tests.fakes import an_op
from tests.observers import client
from tests.otlp_doors import doors
from tests.otlp_requests import a_failed_span, a_request

NOW_NS = 1_790_000_000_000_000_000  # 2026-09-21T14:13:20Z
NOW = "2026-09-21T14:13:20.000Z"
IDS = {"trace_id": "ab" * 16, "span_id": "cd" * 8}
EARLIER_ID = "01997ad5-0a3a-77d4-af9a-b0cbdd31c86b"


@pytest.mark.parametrize("ahead_ns", [-1, 0, 10**9, 10**9 + 1])
def test_a_second_is_no_skew(ahead_ns: int) -> None:
    """Clocks of one cluster differ by some milliseconds; more than a second is a clock that is wrong."""
    assert ended_by(NOW_NS, NOW_NS + ahead_ns) == (NOW_NS + ahead_ns if ahead_ns <= 10**9 else NOW_NS)


@pytest.mark.parametrize("timestamp", ["2026-09-21T14:13:20.900Z", "2026-09-21T16:13:20+02:00", "2026-09-21T14:13:20"])
def test_an_op_that_is_not_ahead_stays_as_it_is(timestamp: str) -> None:
    """Whatever zone its time is written in."""
    op = an_op(timestamp=timestamp, op_id=EARLIER_ID, **IDS)
    assert taken_by(NOW_NS, op) is op


@pytest.mark.parametrize(
    "op",
    [
        an_op(timestamp="2030-01-01T00:00:00.000Z", op_id=EARLIER_ID, **IDS),
        an_op(timestamp="2026-09-21T14:13:20-02:00", op_id=EARLIER_ID, **IDS),
        an_op(timestamp="2026-09-21T14:13:20.000Z", op_id="7" + EARLIER_ID[1:], **IDS),
    ],
    ids=["time", "time with an offset", "id"],
)
def test_an_op_that_is_ahead_is_of_now(op: ObservedOp) -> None:
    """Its id too: what tells when it was taken stands in there."""
    taken = taken_by(NOW_NS, op)
    assert taken.timestamp == NOW
    assert taken.op_id is not None
    assert int(taken.op_id.replace("-", "")[:12], 16) == NOW_NS // 10**6


async def test_a_failure_of_next_year_does_not_keep_its_incident_open(tmp_path: Path) -> None:
    """It is counted, as of now; the incident that a person resolves stays resolved."""
    now_ns = time.time_ns()
    spans = [_failed(now_ns), _failed(now_ns), _failed(now_ns + 400 * 86_400 * 10**9)]
    async with doors(tmp_path) as running, client(running) as http:
        body = a_request(*spans).SerializeToString()
        sent = await http.post("/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"})
        assert sent.status_code == 200
        (incident,) = (await http.get("/incidents")).json()["incidents"]
        assert incident["count"] == 3
        assert datetime.fromisoformat(incident["last_seen"]).timestamp() <= time.time()
        resolved = await http.post(f"/incidents/{incident['fingerprint']}/resolve", json={"by": "anna"})
        assert resolved.json()["state"] == "resolved"


def _failed(ended_ns: int) -> Span:
    span = a_failed_span(start_time_unix_nano=ended_ns - 10**6, end_time_unix_nano=ended_ns)
    span.attributes.add(key="gen_ai.operation.name").value.string_value = "execute_tool"
    span.attributes.add(key="gen_ai.tool.name").value.string_value = "find"
    return span
