"""What a playbook entry says in words, and the names that agents are told in it. Pure.

Texts come from templates over names and values, quoted as JSON. Inside, an input with the name of an op field has a
prefix (`call_fields`). An agent knows it by its own name, so that is what it is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from sidecar.call_fields import FEATURE
from sidecar.model_learning import PlaybookEntry, Range, Term

Terms = Mapping[str, Term]


class Told(NamedTuple):
    """The part of an entry that an agent is told, by the names that it knows."""

    text: str
    when: dict[str, Term]
    set: dict[str, Term]


def entry_text(entry: PlaybookEntry, when: Terms, to_set: Terms) -> str:
    """The text of an entry made from a rule, with its rates: what to do where."""
    rates = (
        f"{_percent(entry.rate)} of {entry.calls} such calls succeeded, "
        f"{_percent(entry.other_rate)} of {entry.other_calls} others."
    )
    if entry.kind == "avoid":
        return f"Avoid {_words(when)}: {rates}" + (f" Rather set {_words(to_set)}." if to_set else "")
    if not to_set:
        return f"Better with {_words(when)}: {rates}"
    return f"Set {_words(to_set)}" + (f" where {_words(when)}" if when else "") + f": {rates}"


def as_told(entry: PlaybookEntry, to_set: Terms) -> Told:
    """*entry* as told to an agent that is to set *to_set* of it. Only arguments can be set: they go by their own name.

    If the entry also speaks of the field of that name, a condition keeps the prefix, and the text says `argument`
    before the name to set. A text that a person wrote stays.
    """
    said = {*entry.when, *entry.set}

    def own(terms: Terms) -> dict[str, Term]:
        return {own_name(name) if own_name(name) not in said else name: term for name, term in terms.items()}

    def arguments(terms: Terms) -> dict[str, Term]:
        shared = {name for name in terms if own_name(name) in said - {name}}
        return {("argument " if name in shared else "") + own_name(name): term for name, term in terms.items()}

    text = entry.text
    if is_from_rule(entry):
        met = {name: term for name, term in entry.set.items() if name not in to_set} if entry.kind != "avoid" else {}
        text = entry_text(entry, own({**entry.when, **met}), arguments(to_set))
    return Told(text, own(entry.when), {own_name(name): term for name, term in to_set.items()})


def is_from_rule(entry: PlaybookEntry) -> bool:
    """Whether its text is the template's: made here, or by the observer from which it was imported."""
    return entry.author == "rule" or entry.text == entry_text(entry, entry.when, entry.set)


def own_name(name: str) -> str:
    """An input's own name."""
    return name.removeprefix(FEATURE)


def _words(terms: Terms) -> str:
    """The text of *terms*, such as `state="NV", amount above 10 and at most 37.5, city left out`."""
    return ", ".join(_word(name, term) for name, term in terms.items())


def _word(name: str, term: Term) -> str:
    if term is None:
        return f"{name} left out"
    if not isinstance(term, Range):
        return f"{name}={msgspec.json.encode(term).decode()}"
    low = f"above {term.above:g}" if term.above is not None else ""
    high = f"at most {term.up_to:g}" if term.up_to is not None else ""
    return f"{name} {' and '.join(filter(None, (low, high)))}"


def _percent(rate: float | None) -> str:
    return f"{100 * (rate or 0):.0f} %"
