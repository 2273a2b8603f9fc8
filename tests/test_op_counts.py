"""Ops by endpoint, source and outcome, as the dashboards read them: counted right, and bounded."""

from __future__ import annotations

from pathlib import Path

import httpx
from hypothesis import given
from hypothesis.strategies import lists
from prometheus_client.parser import text_string_to_metric_families

from sidecar.model import ObservedOp
from sidecar.store.op_counts import MAX_ENDPOINTS, OTHER, OpCounts
from tests.processes import running_observer
from tests.strategies import ops

SOURCES = ("mcp", "scenario")


@given(lists(ops(), max_size=30))
def test_every_op_that_amends_none_is_counted_once(given_ops: list[ObservedOp]) -> None:
    """However they are split up, the counts add up to the ops, and the seconds to theirs."""
    counts = OpCounts(SOURCES)
    for op in given_ops:
        counts.consume(op)
    first = [op for op in given_ops if op.amends is None]
    assert sum(counts.ops.values()) == len(first)
    assert sum(number for series, number in counts.ops.items() if series[2] == "failure") == sum(
        not op.success for op in first
    )
    assert {source for _, source, _ in counts.ops} <= {*SOURCES, "other"}
    assert counts.seconds.keys() == counts.ops.keys()


def test_endpoints_beyond_the_bound_share_one_name() -> None:
    """A sender that makes names up cannot make series without end."""
    counts = OpCounts(SOURCES)
    for number in range(3 * MAX_ENDPOINTS):
        counts.consume(
            ObservedOp(
                timestamp="2026-01-01T00:00:00.000Z",
                endpoint=f"/made-up/{number}",
                input_summary="",
                success=True,
                duration_ms=1,
                output_summary="",
            )
        )
    assert len(counts.ops) == MAX_ENDPOINTS + 1
    assert counts.ops[OTHER, "other", "success"] == 2 * MAX_ENDPOINTS


def test_metrics_tell_them_apart(tmp_path: Path) -> None:
    """What was posted is what `/metrics` says, by endpoint, source and outcome."""
    events = [
        {"endpoint": "/a", "success": True, "duration_ms": 250},
        {"endpoint": "/a", "success": True, "duration_ms": 250},
        {"endpoint": "/a", "error": "no", "source": "langfuse"},
        {"endpoint": "/b", "error": "no", "source": "somebody's"},
    ]
    with running_observer(tmp_path) as observer:
        assert httpx.post(f"{observer.url}/events", json=events, trust_env=False).json()["accepted"] == 4
        text = httpx.get(f"{observer.url}/metrics", trust_env=False).text
    by = {family.name: family.samples for family in text_string_to_metric_families(text)}
    found = {
        (each.labels["endpoint"], each.labels["source"], each.labels["outcome"]): each.value
        for each in by["observer_ops"]
    }
    assert found == {
        ("/a", "scenario", "success"): 2,
        ("/a", "langfuse", "failure"): 1,
        ("/b", "other", "failure"): 1,
    }
    assert sum(each.value for each in by["observer_ops_duration_seconds"]) == 0.5
