"""One row of corrections becomes an op: as the program before did it, and without falling over a wrong value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedError
from sidecar.model import SCHEMA_VERSION, ObservedOp
from sidecar.normalize import Normalizer
from sidecar.receivers.correction_op import CorrectionReader
from sidecar.redaction import Redactor
from sidecar.spans.op_span import op_attributes, op_times_ns
from tests.fakes import ManualClock

_NOW = "2023-11-14T22:13:20.000Z"
_text = st.text('aé\0\ud800🙂 "1.-', max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ("created_at", "model", "task_class", "reason", "correction", "sig_hash", "applied_at_turn", "usage", "other")


def _op(row: Any) -> ObservedOp:
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    return CorrectionReader(Normalizer(Redactor()), ManualClock()).op(data, "correction:h:1:d")


def test_full_row_is_the_op_that_it_always_was() -> None:
    """Names, defaults and the 200-character preview are those of the program before, and the new fields join them."""
    op = _op(
        {
            "created_at": "2026-04-23T12:00:00.123456+02:00",
            "model": "gpt-oss:20b",
            "task_class": "staffing.fill",
            "reason": "three drifts",
            "usage": {"latency_ms": 1234, "prompt_tokens": 5},
            "correction": "x" * 300,
            "sig_hash": "abc",
            "applied_at_turn": 3,
            "session": "s1",
        }
    )
    assert op.op_id
    assert op == ObservedOp(
        timestamp="2026-04-23T10:00:00.123Z",
        endpoint="overseer:gpt-oss:20b",
        input_summary="staffing.fill: three drifts",
        success=True,
        duration_ms=1234,
        output_summary="x" * 200,
        source="overseer_correction",
        sig_hash="abc",
        task_class="staffing.fill",
        correction="x" * 300,
        applied_at_turn=3,
        v=SCHEMA_VERSION,
        op_id=op.op_id,
        event_id="correction:h:1:d",
        extra={"usage": '{"prompt_tokens":5}', "session": "s1"},
    )


def test_empty_row_has_all_defaults() -> None:
    """`{}` is a correction, too: now, the usual model, an escalation of unknown class."""
    op = _op({"created_at": None, "usage": None})
    assert (op.timestamp, op.endpoint, op.input_summary) == (_NOW, "overseer:gpt-oss:120b", "?: escalation")
    assert op.endpoint in (Path(__file__).parents[1] / "docs" / "events.md").read_text(), "nobody would guess that"
    assert (op.duration_ms, op.output_summary, op.correction, op.applied_at_turn) == (0, "", "", 0)
    assert (op.sig_hash, op.task_class, op.extra) == (None, None, None)


@pytest.mark.parametrize("row", [b"null", b"5", b"[]", b'"text"', b"true", b"1.5"])
def test_row_that_is_no_object_is_refused(row: bytes) -> None:
    """A number or null is valid JSON, but no correction."""
    with pytest.raises(MalformedError, match="not an object"):
        _op(row)


@pytest.mark.parametrize(
    "row", [b"{", b'{"a":}', b"\xff\xfe", b"{'a':1}", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}x"]
)
def test_row_that_is_no_json_is_refused(row: bytes) -> None:
    """Also when it is nested so deeply that a parser gives up, or holds a number of 5000 digits."""
    with pytest.raises(MalformedError, match="not JSON"):
        _op(row)


@pytest.mark.parametrize(
    ("given_value", "number"),
    [
        (5, 5),
        (1.5, 1.5),
        ("12", 12),
        (" 12.5 ", 12.5),
        ("1e3", 1000.0),
        (0, 0),
        (-1, 0),
        ("-1", 0),
        ("NaN", 0),
        ("Infinity", 0),
        ("1e999", 0),
        ("12 apples", 0),
        ("", 0),
        (True, 0),
        ([5], 0),
        (2**63, 0),
        (float("nan"), 0),
        (float("inf"), 0),
    ],
)
def test_numbers_are_taken_as_they_are_meant(given_value: Any, number: float) -> None:
    """Decimal text counts as a number; what is none, or no sensible one, counts as 0 and is kept as it came."""
    op = _op({"applied_at_turn": given_value, "usage": {"latency_ms": given_value}})
    assert (op.applied_at_turn, op.duration_ms) == (number, number)
    assert type(op.applied_at_turn) is type(number)
    taken = number != 0 or given_value == 0
    assert (op.extra is None) == (taken and given_value is not None)


@pytest.mark.parametrize(
    "created_at",
    ["yesterday", "2026-04-23", "2026-04-23T10:00:00", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59-23:00", 1714000000],
)
def test_bad_time_is_now_and_kept(created_at: Any) -> None:
    """What is not RFC 3339 costs the time only."""
    op = _op({"created_at": created_at})
    assert (op.timestamp, op.extra) == (_NOW, {"created_at": created_at})


@pytest.mark.parametrize(
    ("created_at", "stamp"),
    [("2026-04-23t10:00:00z", "10:00:00.000"), ("2026-04-23 10:00:00.9999999Z", "10:00:00.999")],
)
def test_rfc3339_is_taken_in_all_its_spellings(created_at: str, stamp: str) -> None:
    """Lower case, a space for the T, and any number of fraction digits."""
    assert _op({"created_at": created_at}).timestamp == f"2026-04-23T{stamp}Z"


def test_wrong_types_become_text() -> None:
    """A correction that is an object is still a correction."""
    op = _op({"correction": {"do": ["a", 1]}, "model": 5, "task_class": ["x"], "reason": False, "usage": "lots"})
    assert op.correction == op.output_summary == '{"do":["a",1]}'
    assert (op.endpoint, op.input_summary, op.extra) == ("overseer:5", '["x"]: false', {"usage": "lots"})


def test_unwritable_characters_and_credentials_are_gone() -> None:
    """Lone surrogates and NUL become U+FFFD, bytes that are no UTF-8 too; masking comes before cutting."""
    secret = "sk-" + "a" * 40
    row = (
        b'{"correction": "'
        + b"y" * 190
        + b" "
        + secret.encode()
        + b'", "reason": "\\ud800 \\u0000 \xff", "token": "t"}'
    )
    op = _op(row)
    assert op.input_summary == "?: \ufffd \ufffd \ufffd"
    assert op.output_summary == "y" * 190 + " [redacted"
    assert op.extra == {"token": "[redacted]"}
    assert secret[:12] not in repr(op)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_FIELDS, _json)))
def test_any_object_is_an_op_in_the_normal_form(row: dict[str, Any]) -> None:
    """Whatever its fields hold, an object becomes an op that normalising changes no more and a span can carry."""
    op = _op(row)
    assert Normalizer(Redactor()).op(op) == op
    assert op_attributes(op)
    assert op_times_ns(op)
