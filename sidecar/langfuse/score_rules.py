"""Decides which scores mean failure: by the user's rules, else by the score's type. Pure.

A number alone never does, as its scale is unknown; a false boolean does, and so does a label that means failure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from sidecar.errors import SettingsError
from sidecar.model import Score

_RULE: Final = re.compile(r"\s*(?P<name>[^<>=]+?)\s*(?P<sign><=|>=|<|>|=)\s*(?P<limit>[^<>=]*?)\s*")
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ANY: Final = "*"
_WORDS: Final = {"1": "true", "0": "false"}
_FIX: Final = "Give rules such as accuracy<0.5,tone=rude,hallucination=true,*<0.2"


class _Rule(NamedTuple):
    sign: str
    limit: float
    word: str


class ScoreRules:
    """Rules from *text*, comma-separated: `name<0.5` fails below, `name=word` on that word, `name=` never.

    `*` applies to all numbers that no rule names. *failing_labels* (lower case) apply to labels that no rule names.
    Raises SettingsError.
    """

    def __init__(self, text: str, failing_labels: Iterable[str]) -> None:
        self._labels = frozenset(failing_labels)
        self._rules: dict[str, list[_Rule]] = {}
        for part in filter(str.strip, text.split(",")):
            found = _RULE.fullmatch(part)
            if found is None:
                raise _unusable(part, "it is not a rule")
            self._rules.setdefault(found["name"].lower(), []).append(_rule(part, found))

    def failed(self, score: Score) -> bool | None:
        """Whether *score* means that what it judges failed; None if it does not tell."""
        rules = self._rules.get(score.name.lower())
        if score.data_type in ("TEXT", "CORRECTION"):
            return None
        if rules is not None:
            return any(_fails(rule, score) for rule in rules)
        if score.data_type == "BOOLEAN":
            return not score.value
        if score.data_type == "CATEGORICAL":
            return str(score.value).strip().lower() in self._labels or None
        others = self._rules.get(_ANY)
        return any(_fails(rule, score) for rule in others) if others is not None else None


def _rule(part: str, found: re.Match[str]) -> _Rule:
    sign, limit = found["sign"], found["limit"]
    if sign == "=":
        return _Rule(sign, 0.0, _WORDS.get(limit, limit).lower())
    try:
        return _Rule(sign, float(limit), "")
    except ValueError:
        raise _unusable(part, f"{limit!r} is not a number") from None


def _fails(rule: _Rule, score: Score) -> bool:
    value = score.value
    if rule.sign != "=":
        return isinstance(value, int | float) and _COMPARE[rule.sign](float(value), rule.limit)
    if isinstance(value, bool):
        return str(value).lower() == rule.word
    if isinstance(value, int | float):
        return f"{value:g}" == rule.word or _WORDS.get(f"{value:g}") == rule.word
    return value.strip().lower() == rule.word


def _unusable(part: str, why: str) -> SettingsError:
    return SettingsError(f"OBSERVER_LANGFUSE_FAILING has {part.strip()!r}", why, _FIX)
