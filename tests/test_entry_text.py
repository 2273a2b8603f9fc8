"""Agents are told what they can do, by the names that they use."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.advice.fit import fit, lacking
from sidecar.call_fields import facts_of, names_of
from sidecar.entry_text import Told, as_told, entry_text
from sidecar.model import Scalar
from sidecar.model_learning import AdviceQuery, EntryRow
from tests.test_playbook_book import an_entry

RATES: dict[str, Any] = {
    "author": "rule",
    "plain": True,
    "rate": 0.01,
    "calls": 180,
    "other_rate": 0.95,
    "other_calls": 400,
}


def test_what_the_caller_can_do_nothing_about_is_not_told() -> None:
    """It may leave the calls to avoid by any input that is its own; text and `set` name only what it can set."""
    both = {"features.city": "Boise", "channel": "sms"}
    avoid = EntryRow(versions=[an_entry(kind="avoid", when=both, set={"features.city": "Denver"}, **RATES)])
    facts: dict[str, Scalar] = facts_of({"city": "Boise", "channel": "sms"})

    def told(row: EntryRow, *given: str) -> Told | None:
        found = fit(row, AdviceQuery(endpoint="/fill", facts=facts, given=names_of(given)))
        return as_told(found.entry, found.to_set) if found is not None else None

    rates = "1 % of 180 such calls succeeded, 95 % of 400 others."
    when = {"city": "Boise", "channel": "sms"}
    whole = f'Avoid city="Boise", channel="sms": {rates} Rather set city="Denver".'
    assert told(avoid) == told(avoid, "channel") == (whole, when, {"city": "Denver"})
    assert told(avoid, "city") == (f'Avoid city="Boise", channel="sms": {rates}', when, {})
    assert told(avoid, "city", "channel") is None
    written = EntryRow(
        versions=[an_entry(kind="avoid", when=both, set={"features.city": "Denver"}, text="Take Denver", plain=True)]
    )
    assert told(written) == ("Take Denver", when, {"city": "Denver"})
    assert told(written, "city") is None
    as_it_is = EntryRow(versions=[an_entry(when={"channel": "sms"}, **RATES)])
    assert told(as_it_is) is None
    assert lacking(as_it_is, AdviceQuery(endpoint="/fill", facts={})) == []


def test_the_text_says_what_there_is_left_to_set() -> None:
    """What the call has already is part of where it helps; a field and an input of one name are told apart."""
    do = an_entry(when={"state": "NV"}, set={"features.state": "open", "certified": True}, **RATES)
    said = 'Set argument state="open" where state="NV", certified=true: '
    said += "1 % of 180 such calls succeeded, 95 % of 400 others."
    assert as_told(do, {"features.state": "open"}) == (said, {"state": "NV"}, {"state": "open"})
    imported = msgspec.structs.replace(do, author="import", text=entry_text(do, do.when, do.set))
    assert as_told(imported, {"certified": True}) == as_told(do, {"certified": True})


def test_text_and_set_name_the_same_argument_beside_a_field_of_that_name() -> None:
    """Only conditions have the prefix, in the text as in `when`: an agent has no argument called `features.city`."""
    rates = "1 % of 180 such calls succeeded, 95 % of 400 others."
    do = as_told(an_entry(when={"city": "Reno"}, set={"features.city": "Elko"}, **RATES), {"features.city": "Elko"})
    assert do == (f'Set argument city="Elko" where city="Reno": {rates}', {"city": "Reno"}, {"city": "Elko"})
    both = {"city": "Reno", "features.city": "Boise"}
    avoid = an_entry(kind="avoid", when=both, set={"features.city": "Elko"}, **RATES)
    said = f'Avoid city="Reno", features.city="Boise": {rates} Rather set argument city="Elko".'
    assert as_told(avoid, {"features.city": "Elko"}) == (said, both, {"city": "Elko"})
    alone = an_entry(kind="avoid", when={"features.city": "Boise"}, set={"features.city": "Elko"}, **RATES)
    said = f'Avoid city="Boise": {rates} Rather set city="Elko".'
    assert as_told(alone, {"features.city": "Elko"}) == (said, {"city": "Boise"}, {"city": "Elko"})
