"""Turns a score into an op: an amendment of the op it judges, an overseer's correction, or an evaluation. Pure.

A score of a trace judges its root op. A score of something that is no op here (a session, a dataset run, a span that
never came) becomes an op of its own, `evaluate {name}`, like an evaluation event on an ordinary span.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from sidecar.ids import new_id
from sidecar.langfuse.judged_ops import JudgedOp, JudgedOps
from sidecar.langfuse.judgements import Judgement, judged
from sidecar.langfuse.score_rules import ScoreRules
from sidecar.model import SCHEMA_VERSION, ObservedOp, Score, SpanRef
from sidecar.normalize import Normalizer

_INPUT_CHARACTERS: Final = 200
_CORRECTED_BY: Final = "langfuse"
_VALUE_CHARACTERS: Final = 256


class Ruling(NamedTuple):
    """The *op* made from a score, and the spans it links to; *of* is the key of the span it judges, "" for none.

    No op if the span has a score of that name already which was told later.
    """

    op: ObservedOp | None
    linked: list[SpanRef]
    of: str


class Verdicts:
    """Makes rulings. *correction_op* reads a row in the overseer's format; *endpoint* bounds endpoint names."""

    def __init__(
        self,
        ops: JudgedOps,
        rules: ScoreRules,
        normalizer: Normalizer,
        *,
        correction_op: Callable[[bytes, str], ObservedOp],
        endpoint: Callable[[str], str],
    ) -> None:
        self._ops = ops
        self._rules = rules
        self._normalizer = normalizer
        self._correction_op = correction_op
        self._endpoint = endpoint

    def ruling(self, key: str, score: Score, taken_ns: int, *, is_last_chance: bool) -> Ruling | None:
        """The ruling on *score*, known as *key*, taken at *taken_ns*; None if the op it judges may still come."""
        row = self._judged_by(score, is_last_chance)
        if row is None and not is_last_chance and (score.trace_id or score.span_id):
            return None
        linked = [(row.trace_id, row.span_id)] if row is not None else []
        of = row.trace_id + row.span_id if row is not None else ""
        if score.data_type == "CORRECTION":
            return Ruling(self._correction(key, score, row), linked, of)
        found = self._judgement(score)
        if row is None:
            return Ruling(self._evaluation(key, score, found), linked, of)
        if 0 < score.told_ns < min(row.told_ns.get(score.name, 0), taken_ns):
            return Ruling(None, linked, of)
        op = self._ops.amended(row, row.own, found)
        return Ruling(msgspec.structs.replace(op, op_id=new_id(), event_id=key), linked, of)

    def _judged_by(self, score: Score, is_last_chance: bool) -> JudgedOp | None:
        if score.span_id:
            return self._ops.find(score.trace_id, score.span_id)
        return self._ops.root(score.trace_id, is_last_chance=is_last_chance) if score.trace_id else None

    def _judgement(self, score: Score) -> Judgement:
        value = score.value[:_VALUE_CHARACTERS] if isinstance(score.value, str) else score.value
        return Judgement(score.name, value, score.comment, self._rules.failed(score))

    def _evaluation(self, key: str, score: Score, found: Judgement) -> ObservedOp:
        plain = ObservedOp(
            timestamp=score.at,
            endpoint=self._endpoint(f"evaluate {score.name}"),
            input_summary=(score.comment or score.task or score.name)[:_INPUT_CHARACTERS],
            success=True,
            duration_ms=0,
            output_summary=f"{score.name}: {found.value}"[:_INPUT_CHARACTERS],
            source="langfuse",
            v=SCHEMA_VERSION,
            op_id=new_id(),
            event_id=key,
            trace_id=score.trace_id or None,
            parent_span_id=score.span_id or None,
            task=score.task or None,
        )
        return self._normalizer.op(judged(plain, {found.name: found}))

    def _correction(self, key: str, score: Score, row: JudgedOp | None) -> ObservedOp:
        """The overseer's correction that *score* stands for: what the op's answer should have been."""
        own = row.own if row is not None else None
        said = {
            "model": _CORRECTED_BY,
            "task_class": own.task_class or own.endpoint if own is not None else score.name,
            "reason": score.comment or "correction",
            "correction": str(score.value),
            "created_at": score.at,
            "sig_hash": own.sig_hash if own is not None else None,
        }
        op = self._correction_op(msgspec.json.encode(said), key)
        return msgspec.structs.replace(
            op,
            trace_id=score.trace_id or None,
            parent_span_id=row.span_id if row is not None else None,
            task=own.task if own is not None else score.task or None,
        )
