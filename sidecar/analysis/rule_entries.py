"""Converts a rule into a playbook entry: conditions, what to set, and the text.

Pure. The text is made by `entry_text`. Only if names and values are harmless by their
form (`plain`) may an agent be told before a person has read them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sidecar.analysis.playbook_consolidator import playbook_id
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_findings import Finding, is_settable
from sidecar.analysis.rule_standing import Rule
from sidecar.call_fields import FEATURE
from sidecar.entry_text import entry_text
from sidecar.model_learning import EntryKind, PlaybookEntry, Range, Term
from sidecar.plain_words import is_plain


def rule_entry_id(rule: Rule) -> str:
    """The id of *rule*'s entry, derived from its kind and scope."""
    return _entry_id(_kind(rule), rule.endpoint, rule.conditions)


def entry_ids(endpoint: str, conditions: Iterable[Condition]) -> tuple[str, str]:
    """The entry ids of rules with these *conditions*, in both directions."""
    together = tuple(conditions)
    return _entry_id("do", endpoint, together), _entry_id("avoid", endpoint, together)


def rule_entry(
    rule: Rule, finding: Finding, at: str, before: PlaybookEntry | None, came_from: list[str]
) -> PlaybookEntry:
    """The next version of *rule*'s entry, after *before*."""
    kind = _kind(rule)
    given, changed = _avoided(rule, finding) if kind == "avoid" else _to_do(rule, finding)
    is_harmless = all(each in finding.seen and _is_plain(each) for each in (*rule.conditions, *changed))
    when, to_set = rule.as_told(given), rule.as_told(changed)
    entry = PlaybookEntry(
        playbook_id=rule_entry_id(rule),
        version=before.version + 1 if before is not None else 1,
        at=at,
        kind=kind,
        endpoint=rule.endpoint,
        text="",
        successes=rule.successes if kind == "do" else rule.other_successes,
        avg_duration_ms=0.0,
        evidence=finding.evidence,
        when=terms(when),
        set=terms(to_set),
        rate=rule.rate,
        other_rate=rule.other_rate,
        calls=rule.n,
        other_calls=rule.others,
        plain=is_harmless,
        author="rule",
        scope=[each.text() for each in rule.conditions],
        came_from=before.came_from if before is not None else came_from,
    )
    return msgspec.structs.replace(entry, text=entry_text(entry, entry.when, entry.set))


def is_told_otherwise(entry: PlaybookEntry, rule: Rule) -> bool:
    """Whether a cut in *entry* differs from the place that *rule* reports now."""
    said = entry.when if entry.kind == "avoid" else entry.when | entry.set
    return said != terms(rule.told)


def terms(conditions: Iterable[Condition]) -> dict[str, Term]:
    """*conditions* as a mapping from field to what it is, or is to be set to."""
    found: dict[str, Term] = {}
    for each in conditions:
        name = each.field
        if each.kind == "missing":
            found[name] = None
        elif each.kind == "is":
            found[name] = each.value == "true" if each.value in ("true", "false") else each.value
        else:
            known = found.get(name)
            low, high = (known.above, known.up_to) if isinstance(known, Range) else (None, None)
            found[name] = Range(above=_higher(low, each.low), up_to=_lower(high, each.high))
    return found


def _kind(rule: Rule) -> EntryKind:
    return "do" if rule.rate > rule.other_rate else "avoid"


def _entry_id(kind: EntryKind, endpoint: str, conditions: Iterable[Condition]) -> str:
    return playbook_id(kind, endpoint, *sorted(each.text() for each in conditions))


def _avoided(rule: Rule, finding: Finding) -> tuple[list[Condition], list[Condition]]:
    """All conditions, and the one to change: preferably of a field that agents vary, else the rule's first."""
    choices = sorted(
        (each.field not in finding.varied, number, finding.instead[each])
        for number, each in enumerate(rule.conditions)
        if each in finding.instead
    )
    return list(rule.conditions), [choices[0][2]] if choices else []


def _to_do(rule: Rule, finding: Finding) -> tuple[list[Condition], list[Condition]]:
    """What is given, and what to set: the features that agents vary; if they vary none, all features."""
    settable = [each for each in rule.conditions if is_settable(each.field)]
    varied = [each for each in settable if each.field in finding.varied]
    to_set = varied or settable
    return [each for each in rule.conditions if each not in to_set], to_set


def _is_plain(condition: Condition) -> bool:
    return is_plain(condition.field.removeprefix(FEATURE)) and (condition.kind != "is" or is_plain(condition.value))


def _higher(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else max(one, other)


def _lower(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)
