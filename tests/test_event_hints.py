"""Which unknown names are taken for misspelt ones, and that asking stays cheap whatever comes."""

from __future__ import annotations

import pytest

from sidecar.receivers.event_hints import FieldHints


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
    """Four new ones an event and a thousand in all; those that were compared are remembered."""
    hints = FieldHints()
    many = {f"sucess{number}": True for number in range(10)}
    assert [len(hints.of(many, many)) for _ in range(4)] == [4, 8, 10, 10]
    for number in range(1000):
        hints.of([f"id-{number}"], {})
    assert hints.of(["sucesss"], {"sucesss": True}) == ()
    assert len(hints.of(many, many)) == 10
