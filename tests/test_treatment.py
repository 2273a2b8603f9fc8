"""An entry's trial goes on while its versions tell agents the same, apart from where a rule's limit lies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.advice.advisor import EXPOSURE
from sidecar.advice.treatment import Treatment, is_same
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.model_learning import AdviceQuery, PlaybookEntry, Range
from sidecar.pipeline.learning import Learning
from tests.learning_worlds import ENDPOINT


def limit(version: int, up_to: float, **fields: Any) -> PlaybookEntry:
    """A version of a rule's entry on a number, with the limit there."""
    made: dict[str, Any] = {
        "playbook_id": "pb-1", "version": version, "at": "2026-01-31T08:15:00.000Z", "kind": "avoid", "text": "Avoid",
        "endpoint": ENDPOINT, "successes": 0, "avg_duration_ms": 0.0, "plain": True, "author": "rule",
        "when": {"kg": Range(above=up_to)}, "set": {"kg": Range(up_to=up_to)},
    }  # fmt: skip
    return PlaybookEntry(**{**made, **fields})


def test_a_trial_goes_on_while_a_rules_limit_moves() -> None:
    """Also for what was being decided meanwhile; the tasks of all these versions count together."""
    learning = Learning()
    offers = learning.offers(holdout=0.1, window_s=60, draw=lambda: 0.0)
    learning.decide_now(PLAYBOOK, limit(1, 18.0))
    asked = [AdviceQuery(endpoint=ENDPOINT, facts={"kg": 25}, task=f"t-{each}") for each in range(3)]
    under_way = offers.offer(asked[0], 10**18, "ex-0").exposure
    assert under_way is not None
    learning.decide_now(PLAYBOOK, limit(2, 19.0))
    learning.decide_now(EXPOSURE, under_way)
    learning.decide_now(PLAYBOOK, limit(3, 20.0))
    learning.decide_now(EXPOSURE, offers.offer(asked[1], 10**18, "ex-1").exposure)
    tally = learning.exposures.tally("pb-1")
    assert tally is not None
    assert (tally.epoch, tally.now.assigned.shown) == (0, 2)
    learning.decide_now(PLAYBOOK, limit(4, 20.0, set={"kg": Range(above=11.0, up_to=20.0)}))
    assert (tally.epoch, tally.now.assigned.shown) == (1, 0)


RULE = limit(1, 18.0, when={"kg": Range(above=18.0), "zone": "a"}, set={"kg": Range(up_to=18.0)})


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({}, True),
        ({"when": {"kg": Range(above=19.0), "zone": "a"}, "set": {"kg": Range(up_to=19.0)}}, True),
        ({"when": {"kg": Range(above=19.0), "zone": "a"}}, False),  # the limit to set did not move with it
        ({"set": {"kg": Range(up_to=12.0)}}, False),
        ({"when": {"kg": Range(above=19.0), "zone": "b"}, "set": {"kg": Range(up_to=19.0)}}, False),
        ({"when": {"kg": Range(above=19.0)}, "set": {"kg": Range(up_to=19.0)}}, False),
        ({"when": {"kg": Range(up_to=19.0), "zone": "a"}, "set": {"kg": Range(up_to=19.0)}}, False),
        ({"set": {"kg": 18.0}}, False),
        ({"author": "import", "when": {"kg": Range(above=19.0), "zone": "a"}, "set": {"kg": Range(up_to=19.0)}}, False),
    ],
)
def test_only_a_moved_limit_is_the_same_treatment(fields: dict[str, Any], same: bool) -> None:
    """What agents are to set, and where, is the same but for the rule's own limit, on both sides of it."""
    learning = Learning()
    offers = learning.offers(holdout=0.1, window_s=60, draw=lambda: 0.0)
    learning.decide_now(PLAYBOOK, RULE)
    query = AdviceQuery(endpoint=ENDPOINT, facts={"kg": 25, "zone": "a"}, task="t-1")
    learning.decide_now(EXPOSURE, offers.offer(query, 10**18, "ex-1").exposure)
    learning.decide_now(PLAYBOOK, msgspec.structs.replace(RULE, version=2, **fields))
    tally = learning.exposures.tally("pb-1")
    assert tally is not None
    assert (tally.epoch, tally.now.assigned.shown) == ((0, 1) if same else (1, 0))


def test_a_limit_that_is_to_be_set_may_move_alone() -> None:
    """Of an entry that says what to do, the rule's condition is what to set."""
    one = Treatment({"zone": "a"}, {"kg": Range(up_to=18.0)}, is_of_rule=True)
    assert is_same(one, one._replace(set={"kg": Range(up_to=17.0)}))
    assert not is_same(one, one._replace(set={"kg": Range(above=3.0, up_to=18.0)}))
