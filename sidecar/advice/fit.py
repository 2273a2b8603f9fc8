"""Decides whether an entry applies to a call, and which part of it to tell.

Pure. An entry applies if what is known of the call meets its `when`; the part to tell is what its `set` adds to the
call.
"""

from __future__ import annotations

from typing import NamedTuple

from sidecar.call_fields import word
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
    if entry is None or row.state == "retired" or entry.endpoint != query.endpoint:
        return None
    if not all(is_met(term, query.facts.get(name)) for name, term in entry.when.items()):
        return None
    missing = {name: term for name, term in entry.set.items() if not is_met(term, query.facts.get(name))}
    cannot = query.given.intersection(missing)
    if entry.kind == "avoid":
        return Fit(row, entry, {} if cannot else missing)
    if cannot or (entry.set and not missing):
        return None
    return Fit(row, entry, missing)


def lacking(row: EntryRow, query: AdviceQuery) -> list[str]:
    """The names of facts that *row* depends on and *query* lacks; empty if the known facts rule the entry out."""
    entry = row.told
    if entry is None or row.state == "retired" or entry.endpoint != query.endpoint:
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
