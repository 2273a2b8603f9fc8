"""Field values are counted within bounds, and nothing is claimed that the bounds left open."""

from __future__ import annotations

from sidecar.analysis.field_counts import MAX_FIELDS, MAX_PAIRS, MAX_VALUES, FieldCounts, common_to_failures
from sidecar.analysis.rule_counts import MAX_COLUMNS, Room, Sheet
from tests.fakes import an_op

ROOM = Room(MAX_COLUMNS, numbers=100, beside_borders=True)


def test_a_value_that_was_not_counted_is_not_claimed() -> None:
    """Where the bound on values left open how many successes had it, nothing is said of it."""
    failures, successes = FieldCounts(), FieldCounts()
    for number in range(100):
        failures.add(an_op(success=False, city="Reno"))
        successes.add(an_op(city=f"c{number}"))
    assert successes.at_most("city", "Reno") == 100 - MAX_VALUES
    assert common_to_failures(failures, successes) == []


def test_field_counts_are_bounded_whatever_comes() -> None:
    """Thousands of features with thousands of values stay within fields, values and pairs."""
    counts = FieldCounts()
    for number in range(200):
        counts.add(an_op(role="r" * 5000, features={f"f{i}" + "x" * 999: f"{number}" * 50 for i in range(60)}))
    assert len(counts.values) == MAX_FIELDS
    assert sum(len(values) for values in counts.values.values()) == counts.pairs == MAX_PAIRS
    assert counts.at_most("never seen", "x") == counts.seen == 200


def test_a_feature_called_like_a_field_is_kept_apart() -> None:
    """`role` of the op and `role` of its features are two."""
    counts = FieldCounts()
    counts.add(an_op(role="welder", features={"role": "agent", "n": 1, "share": 0.5}))
    assert counts.values == {
        "role": {"welder": 1},
        "features.role": {"agent": 1},
        "n": {"1": 1},
        "share": {"0.5": 1},
    }


def test_a_feature_is_called_alike_wherever_it_is_counted() -> None:
    """Also one that is called like a field that only the rules count."""
    counts, sheet = FieldCounts(), Sheet()
    one = an_op(features={"task_class": "a", "count": 3, "zone": True})
    counts.add(one)
    sheet.add(one, ROOM)
    assert {"features.task_class", "features.count", "zone"} <= set(counts.values) & set(sheet.fields)
    assert counts.values["zone"] == {"true": 1}
    counts.remove(one)
    assert counts.values["features.count"] == {"3": 0}


def test_each_new_value_of_a_feature_counts_as_the_feature_s() -> None:
    """The second and third value too: the field of that name has its own."""
    sheet = Sheet()
    for number, state in enumerate(["NV", "UT", "UT", "NV"]):
        sheet.add(an_op(state="CA", features={"state": state, "count": number}), ROOM)
    assert set(sheet.fields["features.state"].values) == {"NV", "UT"}
    assert set(sheet.fields["state"].values) == {"CA"}
    assert sheet.fields["features.state"].values["UT"][0] == 0b0110
