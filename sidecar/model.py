"""The messages that flow through the observer: frozen structs, decoded once at the door, encoded once for the journal.

`ObservedOp` keeps the field names and meanings of the program that this one re-creates; callers depend on its JSON.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Scalar = str | bool | int | float
"""The values of features and extra fields: the four scalar types of OTLP's `AnyValue`."""

SpanRef = tuple[str, str]
"""(trace id, span id), lower-case hex."""

SCHEMA_VERSION = 1

MOST_AMENDED = 16  # ids that one op may amend
MOST_DURATION_MS = 10**12
"""Thirty-two years. More is a mistake, such as a time since 1970, and would spoil averages and sums."""


class ObservedOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One finished operation. Its JSON is one line of `ops.jsonl`; absent optional fields are left out.

    *timestamp* is when it ended (RFC 3339 UTC, ms); it began *duration_ms* before. *error_type* is a bounded code
    (HTTP status, exception class, `_OTHER`), never a message. Ids are lower-case hex as in W3C Trace Context. *amends*
    names the op, or ops with spaces between, that this one corrects.
    """

    timestamp: str
    endpoint: str
    input_summary: str
    success: bool
    duration_ms: int | float
    output_summary: str
    error: str | None = None
    source: str | None = None
    staffer_id: str | None = None
    sig_hash: str | None = None
    event_kind: str | None = None
    role: str | None = None
    city: str | None = None
    state: str | None = None
    count: int | float | None = None
    rescue_attempted: bool | None = None
    rescue_succeeded: bool | None = None
    task_class: str | None = None
    correction: str | None = None
    applied_at_turn: int | float | None = None
    v: int | None = None
    op_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    error_type: str | None = None
    features: dict[str, Scalar] | None = None
    task: str | None = None
    exposure_id: str | None = None
    event_id: str | None = None
    amends: str | None = None
    extra: dict[str, Scalar] | None = None


def amended_ids(op: ObservedOp) -> tuple[str, ...]:
    """The ids of the ops that *op* amends, each once; those after the first `MOST_AMENDED` are not read."""
    if not op.amends:  # nearly always
        return ()
    return tuple(dict.fromkeys(op.amends.split(None, MOST_AMENDED)[:MOST_AMENDED]))


def amends_too_many(amends: str) -> bool:
    """Whether *amends* names more ids than `amended_ids` reads."""
    return len(amends.split(None, MOST_AMENDED)) > MOST_AMENDED


IncidentState = Literal["new", "ongoing", "escalating", "resolved", "regressed", "ignored"]
IncidentKind = Literal["failure", "slow", "recurring_correction"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A diagnosis of one incident: its cause, what to do instead, what to avoid, and when that applies.

    *by* is the model's name, or `statistics`. The texts are for people; agents never get them.
    """

    cause: str
    adjustment: str
    avoid: str
    when: str
    by: str


class Incident(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Failures that share a fingerprint. Times are RFC 3339, of the failures themselves rather than their arrival.

    *state* was decided last, at *decided_at* by *decided_by* (`observer`, or a person's name); a failure that happened
    after a resolution makes it `regressed` at once. *evidence* are spans of the first, the last and some failures in
    between. *diagnosed_count* is *count* at the last diagnosis, which was number *diagnosis_version* of this incident;
    the next is due when the count has doubled. The `by_…` counts keep the values seen first and sum up the others under
    `_OTHER`. *aliases* are fingerprints that its failures had before a template merged them.
    """

    fingerprint: str
    endpoint: str
    message: str
    state: IncidentState
    count: int
    first_seen: str
    last_seen: str
    kind: IncidentKind
    error_type: str | None = None
    by_source: dict[str, int] = {}
    evidence: list[SpanRef] = []
    samples: list[str] = []
    diagnosed_count: int = 0
    diagnosis: str | None = None
    diagnosed_by: str | None = None
    by_role: dict[str, int] = {}
    by_city: dict[str, int] = {}
    by_staffer: dict[str, int] = {}
    by_sig_hash: dict[str, int] = {}
    decided_at: str | None = None
    decided_by: str | None = None
    note: str | None = None
    diagnosis_id: str | None = None
    diagnosis_version: int = 0
    diagnosed_at: str | None = None
    finding: Finding | None = None
    aliases: list[str] = []


class IncidentChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An incident's new *state*, decided *by* `observer` or a person, with a copy of the incident's data at that time.

    The observer's change names the decision it was *judged_from*: the time of the last one known, "" for none. It has
    no effect if a person has decided since.
    """

    fingerprint: str
    state: IncidentState
    was: IncidentState
    by: str
    endpoint: str
    message: str
    kind: IncidentKind
    count: int
    first_seen: str
    last_seen: str
    error_type: str | None = None
    note: str | None = None
    trace_ids: list[str] = []
    judged_from: str | None = None


class IncidentChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Incident changes decided at one time: the body of an `incidents` decision."""

    at: str
    changes: list[IncidentChange]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why some incidents happened, in words. *by* is the model's name, or `statistics` if no model answered.

    *incidents* maps fingerprints to their failure counts at that time. By fingerprint, *texts* has the part of *text*
    about that incident (none if a model spoke of all together), *findings* the details, and *versions* the number of
    diagnoses so far, this one included.
    """

    diagnosis_id: str
    at: str
    by: str
    text: str
    failures: int
    incidents: dict[str, int]
    context: str
    evidence: list[SpanRef] = []
    findings: dict[str, Finding] = {}
    versions: dict[str, int] = {}
    texts: dict[str, str] = {}


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """A post to be sent: JSON *body* for *url*, either a path at the gateway or a whole URL.

    *key* is its `Idempotency-Key`, derived from the content: equal content always has the same key.
    """

    key: str
    kind: str
    url: str
    body: bytes


class QueuedPost(Post, frozen=True, kw_only=True):
    """A post in the outbox. *since_ns* and *due_ns* are ns since the Unix epoch; due 0: a person asked for a retry."""

    number: int
    attempts: int
    since_ns: int
    due_ns: int


class PostOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an attempt at *at_ns*: `done`, `waiting` until *due_ns*, or `dead`; *error* says why.

    *others_due*: the receiver has recovered, so all waiting posts are due now.
    """

    state: Literal["done", "waiting", "dead"]
    at_ns: int
    due_ns: int = 0
    error: str = ""
    others_due: bool = False


class OutboxLook(msgspec.Struct, frozen=True, kw_only=True):
    """The outbox at one moment: the due *post* if any, the earliest due time (ns), counts, the oldest post's start."""

    post: QueuedPost | None
    next_due_ns: int | None
    waiting: int
    dead: int
    oldest_ns: int | None


class Fragment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What Langfuse was told about one observation in one message; without *span_id*, about a trace as a whole.

    Ids are lower-case hex as in W3C Trace Context. *told_ns* is the message's own time. Times are ns since the epoch,
    0 if not given. *attributes* are those of the observation's span.
    """

    trace_id: str
    told_ns: int
    span_id: str = ""
    parent_span_id: str = ""
    name: str = ""
    start_ns: int = 0
    end_ns: int = 0
    attributes: dict[str, Scalar] = {}


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A judgement of an observation (*span_id*), a trace (*trace_id*) or a session (*task*).

    *data_type* is Langfuse's: NUMERIC, BOOLEAN, CATEGORICAL, TEXT, CORRECTION. *at* is RFC 3339. *told_ns* is the
    message's own time, which tells a score that returned to an earlier value from a message that was sent again.
    """

    score_id: str
    name: str
    at: str
    data_type: str
    value: Scalar
    comment: str = ""
    trace_id: str = ""
    span_id: str = ""
    task: str = ""
    told_ns: int = 0


class LangfuseTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of one request, or one pulled page, taken at *taken_ns*: journalled before it is acknowledged.

    *by_field*: of what is told, each field counts by its own time. Journals of earlier versions do not have it.
    """

    taken_ns: int = 0
    by_field: bool = False
    fragments: list[Fragment] = []
    scores: list[Score] = []


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `decisions.jsonl`: what was decided, and the id of the op that it follows.

    *after* is the length of the ops journal at that time, in logical bytes. It is needed because op ids sort by the
    time at which ops ended, which differs from the order in which they arrived.
    """

    decision_id: str
    at: str
    kind: str
    body: msgspec.Raw
    follows: str | None = None
    after: int | None = None
