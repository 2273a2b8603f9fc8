"""How scores stand in an op: as fields of `extra`, and as its outcome where one of them fails it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from sidecar.model import ObservedOp, Scalar

_PREFIX: Final = "evaluation."
_COMMENT: Final = ".comment"
_FAILED: Final = ".failed"
_ERROR_TYPE: Final = "evaluation"
_OUTPUT_CHARACTERS: Final = 100
_ANSWERED: Final = "evaluated_output"
"""The key in `extra` that keeps an op's own `output_summary` when a failing score replaces it by an error."""


class Judgement(NamedTuple):
    """The content of one score; *failed* is None if it does not tell success or failure."""

    name: str
    value: Scalar
    comment: str
    failed: bool | None


def judged(own: ObservedOp, scores: Mapping[str, Judgement]) -> ObservedOp:
    """*own* with *scores* in `extra`. A failing score turns a success into a failure; none does the opposite."""
    extra: dict[str, Scalar] = dict(own.extra or {})
    for each in scores.values():
        name = _PREFIX + each.name
        extra[name] = each.value
        if each.comment:
            extra[name + _COMMENT] = each.comment
        if each.failed is not None:
            extra[name + _FAILED] = each.failed
    failing = next((each for each in scores.values() if each.failed), None)
    if failing is None or not own.success:
        return msgspec.structs.replace(own, extra=extra or None)
    error = error_of(failing)
    return msgspec.structs.replace(
        own,
        success=False,
        error=error,
        error_type=_ERROR_TYPE,
        output_summary=f"ERROR: {error}"[:_OUTPUT_CHARACTERS],
        extra={**extra, _ANSWERED: own.output_summary},
    )


def error_of(failing: Judgement) -> str:
    """The error text of an op that the score *failing* fails."""
    value = str(failing.value).lower() if isinstance(failing.value, bool) else failing.value
    return f"{failing.name}: {value}{f': {failing.comment}' if failing.comment else ''}"


def scores_in(extra: Mapping[str, Scalar], own: Mapping[str, Scalar]) -> dict[str, Judgement]:
    """The scores that `judged` wrote into *extra*, ignoring the op's *own* extra fields."""
    found: dict[str, Judgement] = {}
    for key, value in extra.items():
        if not key.startswith(_PREFIX) or key in own or key.endswith((_COMMENT, _FAILED)):
            continue
        failed, comment = extra.get(key + _FAILED), extra.get(key + _COMMENT, "")
        name = key.removeprefix(_PREFIX)
        found[name] = Judgement(name, value, str(comment), failed if isinstance(failed, bool) else None)
    return found


def without_scores(op: ObservedOp, own: ObservedOp) -> ObservedOp:
    """An updated *op* without the scores that it carried over from before."""
    scores = scores_in(op.extra or {}, own.extra or {})
    names = {_PREFIX + name + suffix for name in scores for suffix in ("", _COMMENT, _FAILED)}
    extra = {key: value for key, value in (op.extra or {}).items() if key not in names}
    answered = extra.pop(_ANSWERED, None)
    plain = msgspec.structs.replace(op, extra=extra or None)
    if answered is None:
        return plain
    return msgspec.structs.replace(plain, success=True, error=None, error_type=None, output_summary=str(answered))
