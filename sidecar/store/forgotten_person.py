"""The person to erase: their id, the texts that only they used, and the masking of both in any text.

Texts are collected from their ops, as far as these are known; what others said too is not theirs alone and stays.
Used by all that cleans files and rows. Memory grows with the amount of their text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from string import punctuation, whitespace
from typing import Final, get_args

import msgspec

from sidecar.call_fields import word
from sidecar.model import IncidentKind, IncidentState, ObservedOp, Scalar
from sidecar.model_learning import EntryAction, EntryKind, EntryState
from sidecar.normalize import clean_text

MASK: Final = "*"
FIELD: Final = "staffer_id"
COUNTED: Final = 60  # characters of a counted value
_LEAST_CUT: Final = 12  # characters by which a truncated text is recognised
_BEHIND: Final = (":", ";", "\n")
_LEAST, _LEAST_DIGITS = 3, 6  # least characters of a text, and of a number, that identifies someone
_SOURCE: Final = "langfuse"
_TEXTS: Final = ("input_summary", "output_summary", "error", "correction", "task")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # a text that is put on one line is joined at these
_EDGES: Final = punctuation + whitespace
_IN_ID: Final = rb"[\w-]"  # characters of ids: `st-1` is not part of `st-12`
_WORD = re.compile(r"\w+")
_FORMAT: Final = {
    *get_args(IncidentState),
    *get_args(IncidentKind),
    *get_args(EntryKind),
    *get_args(EntryState),
    *get_args(EntryAction),
    *("person", "numbers", "rule", "import", "successes", "agent", "none", "missing", "number", "observer"),
    *("statistics", "true", "false", "http", "grpc", "mcp", "proxy", "scenario", "otlp", "overseer_correction"),
    *("langfuse", "values", "beyond", "early", "cuts", "parts", "columns"),
}
"""Words of our own rows and decisions, which are never masked, even if a person is called like one."""


class Person:
    """The staffer *staffer_id*: `learn` their ops, `unlearn` others' ops; then `masked` removes id and texts."""

    def __init__(self, staffer_id: str) -> None:
        self.staffer_id = staffer_id
        self.is_known = True  # whether anything names them; if not, no count is guessed to be theirs
        self.traces: set[str] = set()  # their traces as reported to Langfuse
        self.candidates: set[str] = set()  # values that may be theirs alone
        self.vouched: set[str] = set()  # candidates that others had too
        self.needle = msgspec.json.encode(staffer_id)[1:-1]  # the id as it appears in JSON
        self._encoded = re.compile(rb'(?<!%b)%b(?!%b|":)' % (_IN_ID, re.escape(self.needle), _IN_ID))
        spelled = (self.needle, msgspec.json.encode(counted_as(staffer_id))[1:-1])
        either = b"|".join(re.escape(each) for each in spelled)
        self._named = re.compile(rb"(?<!%b)(?:%b)(?!%b)" % (_IN_ID, either, _IN_ID))
        self._id = re.compile(rf"(?<![\w-]){re.escape(staffer_id)}(?![\w-])", re.ASCII)
        self._texts: set[str] = set()
        self._ordered: list[str] = []
        self._starts: frozenset[str] = frozenset()  # first words of the texts
        self._longest = 0
        self._is_sorted = True

    def is_theirs(self, op: ObservedOp) -> bool:
        """Whether the op names them as its staffer, in its field, features or extra fields."""
        places = (op.features, op.extra)
        return op.staffer_id == self.staffer_id or any(
            place is not None and place.get(FIELD) == self.staffer_id for place in places
        )

    def learn(self, op: ObservedOp) -> None:
        """Collect the texts of *op*, which is theirs."""
        for text in _said(op):
            self.learn_text(text)
        if op.trace_id is not None and op.source == _SOURCE:
            self.traces.add(op.trace_id)

    def learn_text(self, text: str) -> None:
        """Collect a *text* that is theirs, or a value that only they had."""
        self._texts.update(_pieces(text))
        self._is_sorted = False

    def unlearn(self, op: ObservedOp) -> None:
        """Drop what *op*, another person's, says as well: it is not theirs alone."""
        for text in _said(op):
            if self._texts:
                self._texts.difference_update(_pieces(text))
        if self.candidates:
            self.vouched.update(self.candidates.intersection(_values(op)))
        self._is_sorted = False

    def is_alone(self, value: str) -> bool:
        """Whether no other person is known to have had *value*."""
        return value not in self.vouched

    def masked_id_in(self, encoded: bytes) -> bytes:
        """JSON with their id masked in text values; member names stay."""
        return self._encoded.sub(MASK.encode() * len(self.needle), encoded)

    def names(self, line: bytes) -> bool:
        """Whether JSON, or a fragment of it, has their id in a text value."""
        return self._encoded.search(line) is not None

    def is_named_in(self, encoded: bytes) -> bool:
        """The same, also as the name of a member: counts have the id there."""
        return self._named.search(encoded) is not None

    def masked_id(self, text: str) -> str:
        """*text* with their id masked where it is a whole word."""
        return self._id.sub(MASK * len(self.staffer_id), text)

    def masked(self, text: str) -> str:
        """*text* with their id and texts replaced by as many asterisks."""
        text = self.masked_id(text)
        if not self._is_sorted:
            self._sort()
        if not self._ordered or text in _FORMAT:
            return text
        kept, at = [], 0
        for match in _WORD.finditer(text):
            start, end = match.span()
            if start >= at and (match[0] in self._starts or end == len(text)):
                rest = text[start : start + self._longest + 1]
                size = self._whole(rest) or self._cut(rest)
                if size:
                    kept += [text[at:start], MASK * size]
                    at = start + size
        return "".join([*kept, text[at:]]) if kept else text

    def _whole(self, rest: str) -> int:
        """The length of the longest text of theirs that *rest* starts with; 0 if there is none."""
        upto = rest
        while upto and (at := bisect_right(self._ordered, upto)):
            near = self._ordered[at - 1]
            shared = _shared(near, upto)
            if shared == len(near) and not _goes_on(rest, shared):
                return shared
            upto = upto[: min(shared, len(upto) - 1)]
        return 0

    def _cut(self, rest: str) -> int:
        """The same for a truncated text, which must end where *rest* ends, or before a separator."""
        at = bisect_left(self._ordered, rest)
        shared = max(_shared(near, rest) for near in self._ordered[max(0, at - 1) : at + 1])
        is_end = shared == len(rest) or rest[shared : shared + 1] in _BEHIND
        return shared if shared >= _LEAST_CUT and is_end else 0

    def _sort(self) -> None:
        self._ordered = sorted(self._texts)
        self._starts = frozenset(match[0] for each in self._ordered if (match := _WORD.match(each)))
        self._longest = max(map(len, self._ordered), default=0)
        self._is_sorted = True


def counted_as(staffer_id: str, most: int = COUNTED) -> str:
    """The id as counts have it."""
    return clean_text(staffer_id[:most])


def _said(op: ObservedOp) -> Iterator[str]:
    for name in _TEXTS:
        if text := getattr(op, name):
            yield text
    for place in (op.features, op.extra):
        for value in (place or {}).values():
            if not isinstance(value, bool):
                yield str(value)


def _values(op: ObservedOp) -> set[str]:
    fields = (op.source, op.role, op.city, op.state, op.event_kind, op.sig_hash, op.task_class, op.count)
    values: list[Scalar] = [value for value in fields if value is not None]
    values += (op.features or {}).values()
    return {clean_text(word(value)[:COUNTED]) for value in values}


def _pieces(text: str) -> Iterator[str]:
    """Split *text* into lines, without the punctuation around them; skips what identifies nobody."""
    for line in (text,) if text.isprintable() else _BREAKS.split(text):
        piece = line.strip(_EDGES)
        is_number = not any(map(str.isalpha, piece))
        if len(piece) >= (_LEAST_DIGITS if is_number else _LEAST) and piece not in _FORMAT:
            yield piece


def _goes_on(text: str, end: int) -> bool:
    """Whether the word continues past *end*."""
    return end < len(text) and text[end].isalnum() and text[end - 1].isalnum()


def _shared(one: str, other: str) -> int:
    """The length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
