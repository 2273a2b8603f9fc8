"""The book of Langfuse observations and scores that are not ops yet. Its content follows from decisions alone.

Each request is stored as one decision, `langfuse_told`, before its sender gets a response, and so is what a row of a
server changes of what is known; `langfuse_done` records what of it became ops, or never will. So a crash between the
fragments of an observation loses none of them, and a replay builds the same rows. The last word on each score is kept
too, with its time: the same content again is a repetition, other content that was told later is a change, even if it
was said before. What was told earlier and comes late is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

import msgspec

from sidecar.errors import OverloadedError
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.langfuse.merging import Merged, merged, told_by
from sidecar.model import Fragment, LangfuseTold, Score

R = TypeVar("R", bound=msgspec.Struct)

TOLD: Final = "langfuse_told"
DONE: Final = "langfuse_done"
SCORE_EVENT: Final = "langfuse-score:"
"""Prefix of the `event_id` of an op made from a score."""

MOST_OPEN: Final = 4096
MOST_OPEN_BYTES: Final = 8 * 2**20
MOST_SCORES: Final = 10_000
_MOST_DONE: Final = 2048
_MOST_TRACES: Final = 4096
_MOST_SAID: Final = 10_000
_NO_BOUND: Final = 2**31  # for rows that `room` bounds instead: they are never evicted
_ROW_BYTES: Final = 300
_TIME_BYTES: Final = 100
_CONTENT_BYTES: Final = 6


class FragmentRow(msgspec.Struct, omit_defaults=True):
    """An observation as known so far, open since *since_ns*; *version* counts the fragments that changed it."""

    fragment: Merged
    since_ns: int
    version: int = 1


class ScoreRow(msgspec.Struct):
    """A score that waits for the op it judges, since *since_ns*."""

    score: Score
    since_ns: int


class SaidRow(msgspec.Struct, omit_defaults=True):
    """What one score said last, as a hash; *trace_id* so that it can be forgotten with whom it is about.

    *told_ns* is when it said so, but never after it came: a sender's clock may be ahead. 0 in older journals.
    """

    content: str
    trace_id: str = ""
    told_ns: int = 0


class Telling(NamedTuple):
    """A *score* that is the last word on what is known by the key *of*; not a change if it confirms the one before."""

    score: Score
    of: str
    said: SaidRow
    is_change: bool


class LangfuseDone(msgspec.Struct, frozen=True, omit_defaults=True):
    """Finished items: observations by key and version, and scores by key."""

    observations: list[tuple[str, int]] = []
    scores: list[str] = []


class LangfuseBook(KeptBook):
    """Open observations, the last 2048 finished ones (late updates are merged into them), traces, waiting scores.

    Of the last 10,000 scores it knows what they said last. Used on the event loop's thread only.
    """

    def __init__(self) -> None:
        self._open = KeptRows("open/", FragmentRow, _NO_BOUND)
        self._done = KeptRows("done/", FragmentRow, _MOST_DONE)
        self._traces = KeptRows("trace/", Merged, _MOST_TRACES)
        self._scores = KeptRows("score/", ScoreRow, _NO_BOUND)
        self._said = KeptRows("said/", SaidRow, _MOST_SAID)
        super().__init__(self._open, self._done, self._traces, self._scores, self._said)
        self._told = msgspec.json.Decoder(LangfuseTold).decode
        self._finished = msgspec.json.Decoder(LangfuseDone).decode
        self.open_bytes = 0
        self._coming = [0, 0, 0]  # counts being written: observations, their bytes, scores

    # --- decision handlers ---------------------------------------------------------------------------------------

    def apply_told(self, body: bytes) -> None:
        """Apply a `langfuse_told` decision."""
        told = self._told(body)
        for each in told.fragments:
            fragment = told_by(each, told.taken_ns)
            if fragment.span_id:
                self._observation(fragment, told)
            else:
                known = self._traces.get(fragment.trace_id)
                self._traces.add(fragment.trace_id, merged(known, fragment, by_field=told.by_field))
        for word in self.later(told.scores, told.taken_ns):
            self._said.add(word.of, word.said)
            key = score_key(word.score)
            if word.is_change and self._scores.get(key) is None:
                self._scores.add(key, ScoreRow(word.score, told.taken_ns))

    def apply_done(self, body: bytes) -> None:
        """Apply a `langfuse_done` decision; an observation that changed since then stays open."""
        done = self._finished(body)
        for key, version in done.observations:
            row = self._open.get(key)
            if row is not None and row.version == version:
                self._open.remove(key)
                self.open_bytes -= _size(row.fragment)
                self._done.add(key, row)
        for key in done.scores:
            self._scores.remove(key)

    def _observation(self, fragment: Fragment, told: LangfuseTold) -> None:
        key = _key(fragment)
        row = self._open.get(key)
        if row is not None:
            self.open_bytes -= _size(row.fragment)
            row.fragment = merged(row.fragment, fragment, by_field=told.by_field)
            row.version += 1
            self._open.changed(key)
        else:
            before = self._done.get(key)
            whole = merged(before.fragment if before is not None else None, fragment, by_field=told.by_field)
            if before is not None and whole == before.fragment:
                return  # a repetition
            row = FragmentRow(whole, told.taken_ns, before.version + 1 if before is not None else 1)
            self._done.remove(key)
            self._open.add(key, row)
        self.open_bytes += _size(row.fragment)

    # --- queries of the desk -------------------------------------------------------------------------------------

    @contextmanager
    def room(self, told: LangfuseTold) -> Iterator[None]:
        """Reserve room for *told* while it is written, as accepted items are never dropped. Raises OverloadedError.

        The end of an open observation always fits: it makes room.
        """
        fresh = {_key(each) for each in told.fragments if each.span_id and self._open.get(_key(each)) is None}
        growing = [each for each in told.fragments if each.span_id and not (each.end_ns and _key(each) not in fresh)]
        more = (len(fresh), sum(map(_size, growing)), len(told.scores))
        observations, size, scores = (now + each for now, each in zip(self._coming, more, strict=True))
        if growing and (len(self._open) + observations > MOST_OPEN or self.open_bytes + size > MOST_OPEN_BYTES):
            why = f"{len(self._open)} Langfuse observations wait for their end"
            raise OverloadedError(why, "their clients have not ended them", "Send it again later")
        if more[2] and len(self._scores) + scores > MOST_SCORES:
            raise OverloadedError(f"{MOST_SCORES} Langfuse scores wait", "they are being recorded", "Send it later")
        self._coming = [observations, size, scores]
        try:
            yield
        finally:
            self._coming = [now - each for now, each in zip(self._coming, more, strict=True)]

    def open(self, told: Iterable[Fragment] | None = None) -> list[tuple[str, FragmentRow]]:
        """Open observations by key, oldest first: all, or those of the fragments *told*."""
        return self._open.items() if told is None else _found(self._open, map(_key, told))

    def known(self, fragment: Fragment) -> Merged | None:
        """What was told of the observation of *fragment* so far; None if nothing is, or it was finished long ago."""
        row = self._open.get(_key(fragment)) or self._done.get(_key(fragment))
        return row.fragment if row is not None else None

    def whole(self, row: FragmentRow) -> Fragment:
        """The observation of *row* with its trace's attributes (name, user, session)."""
        trace = self._traces.get(row.fragment.trace_id)
        if trace is None:
            return row.fragment
        return msgspec.structs.replace(row.fragment, attributes={**trace.attributes, **row.fragment.attributes})

    def waiting(self, given: Iterable[Score] | None = None) -> list[tuple[str, ScoreRow]]:
        """Waiting scores by key, oldest first: all, or the *given* ones."""
        return self._scores.items() if given is None else _found(self._scores, map(score_key, given))

    def later(self, scores: Iterable[Score], taken_ns: int) -> list[Telling]:
        """Those of *scores*, taken at *taken_ns*, that were told after the last word, here or earlier among *scores*.

        Of two told at the same time the one that comes last counts.
        """
        found: list[Telling] = []
        last: dict[str, SaidRow] = {}
        for score in scores:
            of, told_ns = _said_of(score), min(score.told_ns, taken_ns)
            said = SaidRow(_content(score), score.trace_id, told_ns)
            before = last.get(of) or self._said.get(of)
            is_change = before is None or said.content != before.content
            before_ns = min(before.told_ns, taken_ns) if before is not None else told_ns  # our clock may be set back
            if told_ns > before_ns or (is_change and told_ns == before_ns):
                last[of] = said
                found.append(Telling(score, of, said, is_change))
        return found

    def older_key(self, score: Score) -> str:
        """The key under which an earlier version may have told *score*; "" once a telling with a time is known."""
        row = self._said.get(_said_of(score))
        return _untimed_key(score) if row is None or not row.told_ns else ""

    def is_waiting(self, key: str) -> bool:
        """Whether the score with that key waits."""
        return self._scores.get(key) is not None

    @property
    def open_count(self) -> int:
        """The number of open observations."""
        return len(self._open)

    @property
    def waiting_count(self) -> int:
        """The number of waiting scores."""
        return len(self._scores)

    # --- saved rows ----------------------------------------------------------------------------------------------

    def consume(self, _op: object) -> None:
        """Does nothing: the content follows from decisions alone."""

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        super().load(rows)
        self.open_bytes = sum(_size(row.fragment) for row in self._open.rows())


def score_key(score: Score) -> str:
    """A key for one telling of *score*: what is sent again has the same key; a change has another, as has a return.

    Older journals do not have the time of the telling; there equal content has the same key.
    """
    return _untimed_key(score) + (f":{score.told_ns}" if score.told_ns else "")


def told_ns_in(key: str) -> int:
    """The time of the telling in *key*, which `score_key` made; 0 if it has none."""
    last = key.rpartition(":")[2]
    return int(last) if len(last) > 2 * _CONTENT_BYTES and last.isascii() and last.isdigit() else 0


def _untimed_key(score: Score) -> str:
    return f"{SCORE_EVENT}{score.score_id}:{_content(score)}"


def _said_of(score: Score) -> str:
    """A key for *score* whatever it says; its id alone may be missing, or used for several."""
    named = (score.score_id, score.name, score.trace_id, score.span_id, score.task)
    return blake2b(msgspec.json.encode(named), digest_size=12).hexdigest()


def _content(score: Score) -> str:
    said = msgspec.json.encode((score.name, score.data_type, score.value, score.comment, score.trace_id, score.span_id))
    return blake2b(said, digest_size=_CONTENT_BYTES).hexdigest()


def _key(fragment: Fragment) -> str:
    return fragment.trace_id + fragment.span_id


def _found(rows: KeptRows[R], keys: Iterable[str]) -> list[tuple[str, R]]:
    """The existing rows among *keys*, each once."""
    return [(key, row) for key in dict.fromkeys(keys) if (row := rows.get(key)) is not None]


def _size(fragment: Fragment) -> int:
    texts = (value for value in fragment.attributes.values() if isinstance(value, str))
    times = len(fragment.earlier_ns) if isinstance(fragment, Merged) else 0
    return _ROW_BYTES + len(fragment.name) + sum(map(len, texts)) + _TIME_BYTES * times
