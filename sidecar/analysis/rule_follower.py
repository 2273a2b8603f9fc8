"""Keeps the playbook in step with the rules: a rule that holds has an entry, the entry of one that fell is retired.

Pure. Reads both books once a cycle and proposes changes; the pipeline decides on them, and the decisions change the
playbook. Entries that a person or the measured effect retired stay retired, whatever their rule does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.rule_entries import entry_ids, is_told_otherwise, rule_entry, rule_entry_id
from sidecar.analysis.rule_standing import Rule
from sidecar.analysis.rules import RuleBook
from sidecar.model_learning import EntryChange, PlaybookEntry

log = structlog.get_logger(__name__)

MISSING_CYCLES: Final = 3  # a rule may be missed once if another explains nearly the same
_MATERIAL_RATE = 0.15
MOST_A_CYCLE: Final = 100


class RuleFollower:
    """Proposes at most 100 new versions and changes per cycle."""

    def __init__(self, rules: RuleBook, playbook: PlaybookBook) -> None:
        self._rules = rules
        self._playbook = playbook
        self._missing: dict[str, int] = {}
        self.failures = 0  # rules for which building an entry raised an exception

    def proposals(self, at: str) -> Iterator[PlaybookEntry | EntryChange | None]:
        """The proposals at the time *at*. The caller decides on each before it takes the next.

        Yields None after each rule, so that other tasks may run.
        """
        rules = [rule for rule in self._rules.report().rules if rule.is_shown]
        standing = {rule_entry_id(rule) for rule in rules}
        opposites = {each for rule in rules for each in entry_ids(rule.endpoint, rule.conditions)} - standing
        gone = list(self._fallen_entries(standing, opposites, at))
        reversed_first = [change for entry, change in gone if entry.playbook_id in opposites][:MOST_A_CYCLE]
        yield from reversed_first  # before the new entries: agents are never told an entry and its opposite
        left = MOST_A_CYCLE - len(reversed_first)
        for rule in rules:
            for proposal in self._of_rule(rule, gone, at):
                yield proposal
                left -= 1
                if left <= 0:
                    return
            yield None
        yield from [change for entry, change in gone if entry.playbook_id not in opposites][:left]

    def _fallen_entries(
        self, standing: set[str], opposites: set[str], at: str
    ) -> Iterator[tuple[PlaybookEntry, EntryChange]]:
        """Entries whose rule no longer holds, or now says the opposite, with their retirement."""
        fallen = {each for endpoint, together in self._rules.fallen() for each in entry_ids(endpoint, together)}
        missing: dict[str, int] = {}
        for row in self._playbook.rows():
            entry = row.latest
            if entry.author != "rule" or row.state == "retired" or entry.playbook_id in standing:
                continue
            count = missing[entry.playbook_id] = self._missing.get(entry.playbook_id, 0) + 1
            if entry.playbook_id in opposites:
                yield entry, row.due("retire", at, "rule", "its rule now says the opposite")
            elif entry.playbook_id in fallen:
                yield entry, row.due("retire", at, "rule", "later operations contradict its rule")
            elif count >= MISSING_CYCLES:
                yield (
                    entry,
                    row.due("retire", at, "rule", "its rule was not found again, or its calls no longer show it"),
                )
        self._missing = missing

    def _of_rule(
        self, rule: Rule, gone: Sequence[tuple[PlaybookEntry, EntryChange]], at: str
    ) -> Iterator[PlaybookEntry | EntryChange]:
        try:
            row = self._playbook.get(rule_entry_id(rule))
            if row is None or _is_due(row.latest, rule):
                before = row.latest if row is not None else None
                came_from = _came_from(rule, gone) if before is None else []
                yield rule_entry(rule, self._rules.finding(rule), at, before, came_from)
            if row is not None and row.state == "retired" and row.changes[-1].by == "rule":
                yield row.due("restore", at, "rule", "its rule was found again")
        except Exception:  # one bad rule must not stop the others
            self.failures += 1
            log.exception("rule.no_entry", endpoint=rule.endpoint, failures=self.failures)


def _is_due(entry: PlaybookEntry, rule: Rule) -> bool:
    """Whether the rule has changed or gathered enough ops to warrant a new version."""
    moved = max(abs(rule.rate - (entry.rate or 0.0)), abs(rule.other_rate - (entry.other_rate or 0.0)))
    if entry.author == "rule" and is_told_otherwise(entry, rule):
        return True
    return rule.n >= 2 * entry.calls or rule.others >= 4 * entry.other_calls or moved >= _MATERIAL_RATE


def _came_from(rule: Rule, gone: Sequence[tuple[PlaybookEntry, EntryChange]]) -> list[str]:
    """Retiring entries whose conditions include, or are included in, those of *rule*: it splits or merges them."""
    own = {each.text() for each in rule.conditions}
    found = []
    for entry, _ in gone:
        theirs = set(entry.scope)
        if entry.endpoint == rule.endpoint and theirs and (theirs < own or own < theirs):
            found.append(entry.playbook_id)
    return found
