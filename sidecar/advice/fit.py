"""Decides whether an entry applies to a call, and which part of it to tell.

Pure. An entry applies if what is known of the call meets its `when`; the part to tell is what its `set` adds to the
call. An entry that the caller can do nothing about does not apply: to tell it would change nothing, and only dilute the
measured effect.
"""

from __future__ import annotations

from typing import NamedTuple

from sidecar.call_fields import word
from sidecar.entry_text import is_from_rule
from sidecar.model import Scalar
from sidecar.model_learning import AdviceQuery, EntryRow, PlaybookEntry, Range, Term


class Fit(NamedTuple):
    """An entry that applies: the version to tell, and the part of its `set` to tell."""

    row: EntryRow
    entry: PlaybookEntry
    to_set: dict[str, Term]


def fit(row: EntryRow, query: AdviceQuery) -> Fit | None:
    """How *row* applies to *query*; None if it does not apply, adds nothing, or may not be told."""
    entry = row.told
    if entry is None or row.state == "retired" or entry.endpoint != query.endpoint or _changes_nothing(entry):
        return None
    if not all(is_met(term, query.facts.get(name)) for name, term in entry.when.items()):
        return None
    missing = {name: term for name, term in entry.set.items() if not is_met(term, query.facts.get(name))}
    cannot = query.given.intersection(missing)
    if entry.kind == "avoid":
        return Fit(row, entry, {} if cannot else missing) if _is_avoidable(entry, query, cannot) else None
    if cannot or (entry.set and not missing):
        return None
    return Fit(row, entry, missing)


def _changes_nothing(entry: PlaybookEntry) -> bool:
    """Whether *entry* only says that calls go well which are as they are."""
    return entry.kind == "do" and not entry.set and is_from_rule(entry)


def _is_avoidable(entry: PlaybookEntry, query: AdviceQuery, cannot: frozenset[str]) -> bool:
    """Whether the caller can leave the calls that *entry* is about; it *cannot* set these inputs to do so."""
    if cannot and not is_from_rule(entry):
        return False  # a text that a person wrote speaks of them too
    return not entry.when or any(name not in query.given for name in entry.when)


def lacking(row: EntryRow, query: AdviceQuery) -> list[str]:
    """The names of facts that *row* depends on and *query* lacks; empty if the known facts rule the entry out."""
    entry = row.told
    if entry is None or row.state == "retired" or entry.endpoint != query.endpoint or _changes_nothing(entry):
        return []
    unmet = [name for name, term in entry.when.items() if not is_met(term, query.facts.get(name))]
    return [] if any(name in query.facts for name in unmet) else unmet


def is_met(term: Term, fact: Scalar | None) -> bool:
    """Whether the value *fact* (None: absent) satisfies *term*. `"true"` and true are the same."""
    if term is None or fact is None:
        return term is fact
    if not isinstance(term, Range):
        return word(term) == word(fact)
    number = _number(fact)
    if number is None:
        return False
    return (term.above is None or number > term.above) and (term.up_to is None or number <= term.up_to)


def _number(fact: Scalar) -> float | None:
    if isinstance(fact, bool):
        return None
    try:
        return float(fact)
    except (ValueError, OverflowError):
        return None
