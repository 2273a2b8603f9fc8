"""Reviews overseers' corrections: which ones recur, and the success rate after each, beside the rate before it.

This is an observation, not proof of an effect, and the output says so. Fed every settled op on the event loop's thread.
A correction is linked to earlier failures with its `sig_hash` or `task_class`, and counts the next operations of that
kind. Three equal corrections of one task class raise an incident: data is missing, the agent has not drifted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec
import structlog

from sidecar.analysis.event_time import happened_at, is_earlier
from sidecar.analysis.evidence import span_ref
from sidecar.analysis.fingerprint import kind_fingerprint, mask, one_line
from sidecar.analysis.incident_rows import line_of
from sidecar.analysis.incidents import CORRECTION, IncidentBook
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import ObservedOp, SpanRef
from sidecar.normalize import clean_text

log = structlog.get_logger(__name__)

ALIKE: Final = 3  # equal corrections of one task class that raise an incident
FOLLOWED: Final = 20  # operations counted after a correction
MAX_KINDS: Final = 1000  # task classes and sig_hashes
MAX_CORRECTIONS: Final = 20  # the latest ones kept of a kind
MAX_FAILURES: Final = 5  # spans linked to one correction
MAX_DIFFERENT: Final = 32  # different texts counted for one task class
MESSAGE: Final = "recurring correction: likely a data gap, not drift"
_MAX_TEXT = 200
_CLASS: Final = "task_class:"
_HASH: Final = "sig_hash:"


class Review(msgspec.Struct, omit_defaults=True):
    """One correction: its text, the *failures* before it, and how many of the *followed* operations since *succeeded*.

    Before it, *before* of *before_of* operations of the kind succeeded: the base rate.
    """

    at: str
    correction: str
    trace_id: str | None = None
    failures: list[SpanRef] = []
    before: int = 0
    before_of: int = 0
    succeeded: int = 0
    followed: int = 0


class Kind(msgspec.Struct, omit_defaults=True):
    """One task class or sig_hash: counts, latest failures, reviews, and how often each masked text came (*alike*)."""

    operations: int = 0
    successes: int = 0
    failures: list[SpanRef] = []
    reviews: list[Review] = []
    alike: dict[str, int] = {}
    corrections: int = 0


class CorrectionReview(KeptBook):
    """Keeps at most 1000 kinds; the least recently seen is evicted and counted. For the event loop's thread only.

    The kinds are `task_class:…` and `sig_hash:…`. An operation that has both counts in both.
    """

    def __init__(self, book: IncidentBook) -> None:
        self._book = book
        self._kinds = KeptRows("kind/", Kind, MAX_KINDS)
        super().__init__(self._kinds)
        self.not_counted = 0  # ops that raised an exception

    def consume(self, op: ObservedOp) -> None:
        """Count one settled op. O(1); an op that cannot be read is logged and counted."""
        if not op.task_class and not op.sig_hash:
            return
        try:
            if op.source == CORRECTION:
                self._add_correction(op)
            else:
                self._count_operation(op)
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("corrections.op_not_reviewed", failures=self.not_counted)

    def retract(self, op: ObservedOp) -> None:
        """Remove *op*, which a later op amends, from the counts. Corrections stay."""
        if op.source == CORRECTION:
            return
        at = happened_at(op)
        for key in _keys(op):
            kind = self._kinds.get(key)
            if kind is None or not kind.operations:
                continue
            kind.operations -= 1
            kind.successes -= op.success
            for review in kind.reviews:
                if review.followed and not is_earlier(at, review.at):
                    review.followed -= 1
                    review.succeeded -= op.success and review.succeeded > 0
            self._kinds.changed(key)

    @property
    def evicted(self) -> int:
        """The number of kinds evicted for room."""
        return self._kinds.evicted

    def reviews(self) -> list[dict[str, Any]]:
        """All kinds that were ever corrected, as JSON objects, the most recently seen first."""
        return [_shown(key, kind) for key, kind in reversed(self._kinds.items()) if kind.corrections]

    def _kind(self, key: str) -> Kind:
        kind = self._kinds.touch(key)
        if kind is None:
            kind = Kind()
            self._kinds.add(key, kind)
        return kind

    def _count_operation(self, op: ObservedOp) -> None:
        ref = None if op.success else span_ref(op)
        for key in _keys(op):
            kind = self._kind(key)
            kind.operations += 1
            kind.successes += op.success
            if ref is not None:
                kind.failures = [*kind.failures, ref][-MAX_FAILURES:]
            for review in kind.reviews:
                if review.followed < FOLLOWED:
                    review.followed += 1
                    review.succeeded += op.success

    def _add_correction(self, op: ObservedOp) -> None:
        text = one_line(op.correction or op.output_summary, _MAX_TEXT)
        for key in _keys(op):
            kind = self._kind(key)
            kind.corrections += 1
            review = Review(
                at=happened_at(op),
                correction=text,
                trace_id=op.trace_id,
                failures=list(kind.failures),
                before=kind.successes,
                before_of=kind.operations,
            )
            kind.reviews = [*kind.reviews, review][-MAX_CORRECTIONS:]
            if key.startswith(_CLASS) and text:
                self._count_alike(op, kind, text)

    def _count_alike(self, op: ObservedOp, kind: Kind, text: str) -> None:
        """Count the correction's masked text; from the third equal one on, count *op* in an incident."""
        masked = mask(text)
        alike = OrderedDict(kind.alike)
        alike[masked] = alike.get(masked, 0) + 1
        alike.move_to_end(masked)
        if len(alike) > MAX_DIFFERENT:
            del alike[min(alike, key=lambda said: (alike[said], list(alike).index(said)))]
        kind.alike = dict(alike)
        if alike.get(masked, 0) >= ALIKE:
            fingerprint = kind_fingerprint(f"{op.task_class}\0{masked}", "recurring_correction")
            self._book.raise_(op, fingerprint, f"{MESSAGE}: {masked}", "recurring_correction", line_of(op, text))


def _keys(op: ObservedOp) -> list[str]:
    keys = []
    if op.task_class:
        keys.append(_CLASS + clean_text(op.task_class[:_MAX_TEXT]))
    if op.sig_hash:
        keys.append(_HASH + clean_text(op.sig_hash[:_MAX_TEXT]))
    return keys


def _shown(key: str, kind: Kind) -> dict[str, Any]:
    """A kind as JSON: `of`, `value`, its corrections, and the success rate after them beside the base rate."""
    of, _, value = key.partition(":")
    followed = sum(review.followed for review in kind.reviews)
    succeeded = sum(review.succeeded for review in kind.reviews)
    return {
        "kind": key,
        "of": of,
        "value": value,
        "corrections": kind.corrections,
        "operations": kind.operations,
        "successes": kind.successes,
        "followed": {"succeeded": succeeded, "of": followed},
        "note": "what followed is no proof: after a failure most things get better by themselves",
        "reviews": msgspec.to_builtins(kind.reviews[::-1]),
    }
