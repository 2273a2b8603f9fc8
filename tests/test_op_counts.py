"""Ops by endpoint, source and outcome, as the dashboards read them: counted right, and bounded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis.strategies import lists
from prometheus_client.parser import text_string_to_metric_families

from sidecar.model import ObservedOp
from sidecar.store.fan_out import hand_on
from sidecar.store.op_counts import MAX_ENDPOINTS, OTHER, OpCounts, Series
from tests.processes import Process, running_observer
from tests.strategies import ops

SOURCES = ("mcp", "scenario")


def told(counts: OpCounts, op: ObservedOp, *replaced: ObservedOp) -> None:
    """Tell *counts* of *op* as the store does."""
    hand_on(counts, (op, replaced))


@given(lists(ops(), max_size=30))
def test_every_op_that_replaces_none_is_counted_once(given_ops: list[ObservedOp]) -> None:
    """However they are split up, the counts add up to the ops; whether the ops say that they amend plays no part."""
    counts = OpCounts(SOURCES)
    for op in given_ops:
        told(counts, op)
    assert sum(counts.ops.values()) == len(given_ops)
    assert sum(number for series, number in counts.ops.items() if series[2] == "failure") == sum(
        not op.success for op in given_ops
    )
    assert {source for _, source, _ in counts.ops} <= {*SOURCES, "other"}
    assert counts.seconds.keys() == counts.ops.keys() == counts.corrected.keys()


@given(lists(ops(), min_size=1, max_size=20))
def test_failures_as_now_known_are_those_recorded_and_those_corrected(words: list[ObservedOp]) -> None:
    """However often one operation's outcome is corrected: it counts once, and the last word is its outcome."""
    counts = OpCounts(SOURCES)
    told(counts, words[0])
    for before, op in pairwise(words):
        told(counts, op, before)
    assert sum(counts.ops.values()) == 1

    def failures(of: dict[Series, int], outcome: str) -> int:
        return sum(number for series, number in of.items() if series[2] == outcome)

    corrected = failures(counts.corrected, "failure") - failures(counts.corrected, "success")
    assert failures(counts.ops, "failure") + corrected == (not words[-1].success)


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
    assert len(counts.ops) == 2 * (MAX_ENDPOINTS + 1)
    assert counts.ops[OTHER, "other", "success"] == 2 * MAX_ENDPOINTS


def samples(observer: Process, name: str) -> dict[tuple[str, str, str], float]:
    """What `/metrics` says of *name* by endpoint, source and outcome, but for zeros."""
    text = httpx.get(f"{observer.url}/metrics", trust_env=False, timeout=30).text
    by = {family.name: family.samples for family in text_string_to_metric_families(text)}
    keys = ("endpoint", "source", "outcome")
    return {
        (each.labels[keys[0]], each.labels[keys[1]], each.labels[keys[2]]): each.value
        for each in by[name]
        if each.value
    }


def test_metrics_tell_them_apart(tmp_path: Path) -> None:
    """What was posted is what `/metrics` says, by endpoint, source and outcome; `/stats` says the same number."""
    events = [
        {"endpoint": "/a", "success": True, "duration_ms": 250},
        {"endpoint": "/a", "success": True, "duration_ms": 250},
        {"endpoint": "/a", "error": "no", "source": "langfuse"},
        {"endpoint": "/b", "error": "no", "source": "somebody's"},
        {"endpoint": "/b", "success": True, "amends": "long-gone"},
    ]
    with (
        running_observer(tmp_path) as observer,
        httpx.Client(base_url=observer.url, trust_env=False, timeout=30) as http,
    ):
        assert http.post("/events", json=events).json()["accepted"] == 5
        latest = http.get("/ops", params={"endpoint": "/a"}).json()["ops"][-1]["op_id"]
        late = {"endpoint": "/a", "error": "judged wrong", "amends": latest}
        assert http.post("/event", json=late).json()["accepted"]
        assert samples(observer, "observer_ops") == {
            ("/a", "scenario", "success"): 2,
            ("/a", "langfuse", "failure"): 1,
            ("/b", "other", "failure"): 1,
            ("/b", "scenario", "success"): 1,
        }
        assert samples(observer, "observer_ops_corrected") == {("/a", "scenario", "failure"): 1}
        assert sum(samples(observer, "observer_ops_duration_seconds").values()) == 0.5
        assert http.get("/stats").json()["operations_in_all"] == 5
