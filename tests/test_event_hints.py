"""Which unknown names are taken for misspelt ones, and that asking stays cheap whatever comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.receivers.event_hints import (
    ERROR_OF_SUCCESS,
    NO_CALL,
    NO_ENDPOINT,
    NO_SUCCESS,
    FieldHints,
    with_outcome_hint,
)
from tests.observers import client, observer


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("sucess", "success"),
        ("succes", "success"),
        ("Success", "success"),
        ("durationMs", "duration_ms"),
        ("duration", "duration_ms"),
        ("traceId", "trace_id"),
        ("error-type", "error_type"),
        ("tiemstamp", "timestamp"),
        ("feature", "features"),
        ("roles", "role"),
        ("rescue_attempt", "rescue_attempted"),
        *((name, "task") for name in ("task_id", "taskId", "session_id")),
        *((name, "success") for name in ("ok", "OK", "succeeded", "is_success")),
        *((name, "duration_ms") for name in ("latency", "latency_ms", "elapsed_ms", "elapsedMs")),
        *((name, "endpoint") for name in ("tool", "tool_name", "toolName")),
        *((name, "error") for name in ("err", "error_message")),
        *((name, "error_type") for name in ("error_code", "errorCode")),
        *((name, "features") for name in ("inputs", "args")),
        *((name, "timestamp") for name in ("ts", "time")),
        *((name, None) for name in ("account", "country", "rule", "mask", "status", "region", "user_id", "op_id", "v")),
    ],
)
def test_names_one_slip_away_are_known(name: str, known: str | None) -> None:
    """And words that merely look a little like one of ours are left alone."""
    hints = FieldHints().of([name], {name: 1})
    assert hints == ((f"'{name}' is kept as an extra field; did you mean '{known}'?",) if known else ())


def test_only_fields_of_the_event_itself_are_meant() -> None:
    """What the sender put into `extra` is meant so, as is a name beside the one that it resembles."""
    hints = FieldHints()
    assert hints.of(["sucess"], {"extra": {"sucess": True}}) == ()
    assert hints.of(["sucess"], {"sucess": True, "success": True}) == ()
    assert len(hints.of(["sucess"], {"sucess": True})) == 1


def test_names_without_end_are_compared_within_bounds() -> None:
    """Four new ones an event and a thousand in all; those that were compared are remembered, the others counted."""
    hints = FieldHints()
    many = {f"sucess{number}": True for number in range(10)}
    assert [len(hints.of(many, many)) for _ in range(4)] == [4, 8, 10, 10]
    assert hints.not_compared == 6 + 2
    for number in range(1000):
        hints.of([f"id-{number}"], {})
    assert hints.not_compared == 8  # those were in `extra`
    assert hints.of(["sucesss"], {"sucesss": True}) == ()
    assert len(hints.of(many, many)) == 10
    assert hints.not_compared == 9


@pytest.mark.parametrize(
    ("event", "hints"),
    [
        ({"endpoint": "/book"}, (NO_SUCCESS,)),
        ({"endpoint": "/book", "success": None, "features": {"a": 1}}, (NO_SUCCESS,)),
        ({"endpoint": "/book", "success": False}, ()),
        ({"endpoint": "/book", "error": "no seat"}, ()),
        ({"endpoint": "/book", "correction": "ask first"}, ()),
        ({"endpoint": "/book", "role": "welder"}, ()),
        ({"endpoint": "scenario:cancel"}, ()),
        ({"endpoint": ""}, ()),
        ({"events": []}, (NO_CALL,)),
        ({"endpoint": None, "features": {"a": 1}}, (NO_CALL,)),
        ({"status": "error", "error": "no seat"}, ()),
        ({"role": "welder"}, ()),
        ({"correction": "ask first"}, ()),
        ({}, ()),
    ],
)
def test_a_call_without_an_outcome_counts_as_a_failure_and_is_told_so(
    event: dict[str, object], hints: tuple[str, ...]
) -> None:
    """Scenarios are left alone, and `{}`: for them a missing `success` is established."""
    assert with_outcome_hint((), event) == hints


def test_one_hint_on_success_is_enough() -> None:
    """An event with another word for it gets the hint on that word."""
    event = {"endpoint": "/book", "ok": True}
    hints = FieldHints().of(["ok"], event)
    assert with_outcome_hint(hints, event) == hints


async def test_an_event_in_other_words_is_told_all_that_was_assumed(tmp_path: Path) -> None:
    """What its fields may mean, and as what it counts without them; an object around a batch is such an event too."""
    async with observer(tmp_path) as running, client(running) as http:
        said = (await http.post("/event", json={"tool": "x", "status": "error", "latency": 3})).json()
        assert said["hints"] == [
            "'tool' is kept as an extra field; did you mean 'endpoint'?",
            "'latency' is kept as an extra field; did you mean 'duration_ms'?",
            NO_CALL,
        ]
        assert (await http.post("/event", json={"events": []})).json()["hints"] == [NO_CALL]
        (op, _) = (await http.get("/ops")).json()["ops"]
        assert (op["endpoint"], op["success"]) == ("scenario:fill", False)


async def test_an_empty_endpoint_is_taken_with_a_hint(tmp_path: Path) -> None:
    """As ever; in the metrics it has a name, as an empty label is none."""
    async with observer(tmp_path) as running, client(running) as http:
        said = (await http.post("/event", json={"endpoint": "", "success": True})).json()
        assert (said["accepted"], said["hints"]) == (True, [NO_ENDPOINT])
        assert 'observer_ops_total{endpoint="_EMPTY",' in (await http.get("/metrics")).text
        assert "hints" not in (await http.post("/event", json={"endpoint": None, "success": True})).json()


async def test_an_error_of_a_success_is_taken_with_a_hint(tmp_path: Path) -> None:
    """One of the two is wrong, and `success` is what counts."""
    event = {"endpoint": "/tools/refund", "success": True, "error": "declined"}
    async with observer(tmp_path) as running, client(running) as http:
        assert (await http.post("/event", json=event)).json()["hints"] == [ERROR_OF_SUCCESS]
        assert "hints" not in (await http.post("/event", json={**event, "success": False})).json()
        assert "hints" not in (await http.post("/event", json={**event, "error": None})).json()
        assert (await http.get("/stats")).json()["successes"] == 2
