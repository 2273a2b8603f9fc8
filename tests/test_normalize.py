"""The normal form: what journal, span and OTLP can all hold, and nothing lost on the way there."""

from __future__ import annotations

import enum
import json
import math
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from sidecar.model import ObservedOp
from sidecar.normalize import MAX_ENTRIES, REST_KEY, Normalizer, clean_text, json_text, scalar
from sidecar.receivers.event_fields import event_op
from sidecar.redaction import MASK, Redactor
from tests.fakes import an_op
from tests.strategies import maps, ops, texts, values

NORMALIZER = Normalizer(Redactor())


@given(texts)
def test_clean_text_can_be_written_anywhere(text: str) -> None:
    """Lone surrogates and NUL become U+FFFD, one for one; all else stays, and cleaning again changes nothing."""
    clean = clean_text(text)
    clean.encode()
    assert "\0" not in clean
    assert len(clean) == len(text)
    assert all(a == b or b == "\ufffd" for a, b in zip(text, clean, strict=True))
    assert clean_text(clean) == clean


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (1.0, 1.0),
        (-0.0, -0.0),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**5000, hex(10**5000)),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (5e-324, 5e-324),
        ("a\x00\ud800", "a\ufffd\ufffd"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": {"b": [1.5, True]}}, '{"a":{"b":[1.5,true]}}'),
        (["\ud800"], '["\ufffd"]'),
        ([10**30], "[1000000000000000000000000000000]"),
        ([], "[]"),
        ({}, "{}"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scalar(value: object, expected: object) -> None:
    """An int stays int, float float, bool bool; what no scalar can say is JSON text, a number's name or digits."""
    said = scalar(value)
    assert said == expected
    assert type(said) is type(expected)
    assert repr(said) == repr(expected)


def test_scalar_of_a_subclass_is_the_plain_type() -> None:
    """An enum of integers is an integer: OTLP knows no other."""

    class Level(enum.IntEnum):
        HIGH = 3

    assert type(scalar(Level.HIGH)) is int


@settings(deadline=None)
@given(values)
def test_scalar_never_raises_and_is_final(value: object) -> None:
    """Whatever comes, a scalar that UTF-8 and int64 can hold comes out, and stays the same."""
    said = scalar(value)
    assert said is None or type(said) in (str, bool, int, float)
    assert repr(scalar(said)) == repr(said)


def test_unwritable_values_never_raise() -> None:
    """Objects nested without end, cycles, and integers of 5000 digits in a list become some text."""
    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (deep, cycle, [10**5000], {(1, 2): 3}, object(), {"x": object()}, [math.nan]):
        assert isinstance(json_text(value), str)
        assert "0x" not in json_text([deep])
        kept = NORMALIZER.scalars({"a": value, "b": 1})
        assert kept is not None
        assert kept["b"] == 1
    while deep:  # one level at a time: freeing it at once would recurse as deep
        deep = deep.pop()


def test_absent_values_leave_no_key() -> None:
    """A null means absent; a map of nothing is no map."""
    assert NORMALIZER.scalars({"a": None, "b": 0}) == {"b": 0}
    assert NORMALIZER.scalars({"a": None}) is None
    assert NORMALIZER.scalars({}) is None


def test_sixty_four_entries_are_kept_by_name() -> None:
    """A map at the bound has no `_rest`."""
    fields = {str(i): i for i in range(MAX_ENTRIES)}
    assert NORMALIZER.scalars(fields) == fields


def test_the_rest_is_kept_as_json() -> None:
    """Beyond 64, the first 63 keep their names and the others are all in the JSON under `_rest`."""
    fields = {f"k{i}": i if i % 2 else f"v{i}" for i in range(200)}
    kept = NORMALIZER.scalars(fields)
    assert kept is not None
    assert len(kept) == MAX_ENTRIES
    rest = json.loads(str(kept.pop(REST_KEY)))
    assert len(rest) == 200 - 63
    assert {**kept, **rest} == fields


def test_keys_that_come_out_alike_lose_nothing() -> None:
    """Keys that differ only in what is cleaned are all kept, with numbers behind them."""
    keys = ["a\x00", "a\ud800", "a\udfff", "", "a\ufffd"]
    kept = NORMALIZER.scalars({key: number for number, key in enumerate(keys, start=1)})
    assert kept is not None
    rest = json.loads(str(kept.pop(REST_KEY)))
    assert kept == {"a\ufffd": 1, "": 4}
    assert rest == {"a\ufffd": 2, "a\ufffd (2)": 3, "a\ufffd (3)": 5}


def test_many_keys_that_come_out_alike_take_linear_time() -> None:
    """A request full of them cannot hold up the loop: trying every number for every key would take minutes here."""
    kept = NORMALIZER.scalars({f"token={number}": number for number in range(60_000)})
    assert kept is not None
    assert len(json.loads(str(kept[REST_KEY]))) == 60_000 - 1


def test_a_senders_own_rest_is_not_overwritten() -> None:
    """A field that the sender calls `_rest` stays, by name or inside ours."""
    assert NORMALIZER.scalars({REST_KEY: "mine"}) == {REST_KEY: "mine"}
    crowded = NORMALIZER.scalars({REST_KEY: "mine", **{str(i): i for i in range(100)}})
    collided = NORMALIZER.scalars({REST_KEY: "mine", "\x00": 1, "\ud800": 2})
    for kept in (crowded, collided):
        assert kept is not None
        assert json.loads(str(kept[REST_KEY]))[REST_KEY] == "mine"


@settings(deadline=None)
@given(maps)
def test_no_field_is_lost(fields: dict[str, Any]) -> None:
    """As many fields come out as hold a value, by name or in the rest."""
    kept = NORMALIZER.scalars(fields) or {}
    assert len(kept) <= MAX_ENTRIES
    present = sum(value is not None for value in fields.values())
    inside = len(json.loads(str(kept[REST_KEY]))) if REST_KEY in kept and REST_KEY not in fields else 1
    assert len(kept) - 1 + inside == present if kept else present == 0


def test_credentials_are_masked_before_the_op_exists() -> None:
    """Texts, values, keys, nested values and values by their field's name are masked."""
    op = NORMALIZER.op(
        an_op(
            error="401 for Bearer abcdefgh1234",
            features={"api_key": 12345, "note": "password=x", "body": '{"token":"y"}'},
            extra={"sk-" + "a" * 20: 1, "fine": "fine"},
        )
    )
    assert op.error == f"401 for Bearer {MASK}"
    assert op.features == {"api_key": MASK, "note": f"password={MASK}", "body": f'{{"token":"{MASK}"}}'}
    assert op.extra == {MASK: 1, "fine": "fine"}
    assert NORMALIZER.scalars({"headers": {"Cookie": "a=b"}}) == {"headers": f'{{"Cookie":"{MASK}"}}'}


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, 2.0**63),
        (10**400, sys.float_info.max),
        (-(10**400), -sys.float_info.max),
        (math.inf, sys.float_info.max),
        (1e300, 1e300),
    ],
    ids=lambda value: type(value).__name__,
)
def test_measures_fit_their_attributes(number: float, expected: float) -> None:
    """Counts and durations that int64 cannot hold are the nearest float."""
    op = NORMALIZER.op(an_op(duration_ms=number, count=number, applied_at_turn=number))
    for measure in (op.duration_ms, op.count, op.applied_at_turn):
        assert (measure, type(measure)) == (expected, type(expected))


def test_a_measure_that_is_no_number_is_absent() -> None:
    """NaN counts as nothing; a duration, which must be there, is 0."""
    op = NORMALIZER.op(an_op(duration_ms=math.nan, count=math.nan))
    assert (op.duration_ms, op.count) == (0.0, None)


def test_an_op_in_the_normal_form_is_not_copied() -> None:
    """Most ops pass as they are."""
    op = an_op(error="é")
    assert NORMALIZER.op(op) is op


@settings(max_examples=150, deadline=None)
@given(ops())
def test_the_normal_form_is_final(op: ObservedOp) -> None:
    """Normalising twice changes nothing, and the result can be written as JSON and read back."""
    once = NORMALIZER.op(op)
    assert repr(NORMALIZER.op(once)) == repr(once)
    assert repr(msgspec.json.decode(msgspec.json.encode(once), type=ObservedOp)) == repr(once)


@given(ops(), ops())
def test_what_is_known_changes_no_result(one: ObservedOp, other: ObservedOp) -> None:
    """An op comes out the same whether its texts were met before, in it or in another op, or not."""
    seasoned = Normalizer(Redactor())
    seasoned.op(other)
    assert seasoned.op(one) == seasoned.op(one) == Normalizer(Redactor()).op(one)


def test_no_credential_is_known() -> None:
    """Only short texts that nothing is masked in are kept, and no more than some thousands."""
    normalizer = Normalizer(Redactor())
    for number in range(8000):
        normalizer.op(
            an_op(endpoint=f"/tools/{number}", input_summary="x" * (number % 500), error=f"password=p{number}")
        )
        normalizer.op(an_op(endpoint=f"/tools/{number}", input_summary="x" * (number % 100)))
    assert 0 < len(normalizer.known) <= 2048
    normalizer.scalars({f"name {number}": "x" for number in range(50_000)})
    assert 0 < len(normalizer.known) <= 2048
    assert not any("password" in text or len(text) > 64 for text in normalizer.known)


def test_a_text_of_another_class_is_not_known() -> None:
    """A program may give an enum's member as a text; equal texts of others stay plain texts."""

    class Role(enum.StrEnum):
        WELDER = "welder"

    normalizer = Normalizer(Redactor())
    assert normalizer.scalars({"role": Role.WELDER, "city": "Reno"}) is not None
    assert {type(text) for text in normalizer.known.values()} == {str}
    op = event_op({"role": "welder", "city": "Reno"}, "2026-01-31T08:15:00.000Z", normalizer)
    assert (type(op.role), op.input_summary) == (str, "? welder×? in Reno, ?")
