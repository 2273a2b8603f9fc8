from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RecordRequest(_message.Message):
    __slots__ = ("op",)
    OP_FIELD_NUMBER: _ClassVar[int]
    op: ObservedOp
    def __init__(self, op: _Optional[_Union[ObservedOp, _Mapping]] = ...) -> None: ...

class RecordResponse(_message.Message):
    __slots__ = ("trace_id", "span_id", "ring_size")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    RING_SIZE_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    span_id: str
    ring_size: int
    def __init__(self, trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., ring_size: _Optional[int] = ...) -> None: ...

class RecordStreamRequest(_message.Message):
    __slots__ = ("op",)
    OP_FIELD_NUMBER: _ClassVar[int]
    op: ObservedOp
    def __init__(self, op: _Optional[_Union[ObservedOp, _Mapping]] = ...) -> None: ...

class RecordStreamResponse(_message.Message):
    __slots__ = ("index", "recorded", "rejected")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    index: int
    recorded: RecordResponse
    rejected: Rejection
    def __init__(self, index: _Optional[int] = ..., recorded: _Optional[_Union[RecordResponse, _Mapping]] = ..., rejected: _Optional[_Union[Rejection, _Mapping]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("equals", "success")
    class EqualsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EQUALS_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    equals: _containers.ScalarMap[str, str]
    success: bool
    def __init__(self, equals: _Optional[_Mapping[str, str]] = ..., success: _Optional[bool] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("op", "missed")
    OP_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    op: ObservedOp
    missed: int
    def __init__(self, op: _Optional[_Union[ObservedOp, _Mapping]] = ..., missed: _Optional[int] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("total", "successes", "failures", "by_source", "recent_scenario_ops")
    class BySourceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    SUCCESSES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    RECENT_SCENARIO_OPS_FIELD_NUMBER: _ClassVar[int]
    total: int
    successes: int
    failures: int
    by_source: _containers.ScalarMap[str, int]
    recent_scenario_ops: _containers.RepeatedCompositeFieldContainer[ScenarioOp]
    def __init__(self, total: _Optional[int] = ..., successes: _Optional[int] = ..., failures: _Optional[int] = ..., by_source: _Optional[_Mapping[str, int]] = ..., recent_scenario_ops: _Optional[_Iterable[_Union[ScenarioOp, _Mapping]]] = ...) -> None: ...

class ScenarioOp(_message.Message):
    __slots__ = ("ts", "ok", "staffer", "kind", "role")
    TS_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    STAFFER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ts: str
    ok: bool
    staffer: str
    kind: str
    role: str
    def __init__(self, ts: _Optional[str] = ..., ok: _Optional[bool] = ..., staffer: _Optional[str] = ..., kind: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...

class ListIncidentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[str]] = ...) -> None: ...

class ListIncidentsResponse(_message.Message):
    __slots__ = ("incidents", "next_page_token")
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    incidents: _containers.RepeatedCompositeFieldContainer[Incident]
    next_page_token: str
    def __init__(self, incidents: _Optional[_Iterable[_Union[Incident, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListPlaybooksRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPlaybooksResponse(_message.Message):
    __slots__ = ("playbooks", "next_page_token")
    PLAYBOOKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    playbooks: _containers.RepeatedCompositeFieldContainer[PlaybookEntry]
    next_page_token: str
    def __init__(self, playbooks: _Optional[_Iterable[_Union[PlaybookEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ObservedOp(_message.Message):
    __slots__ = ("timestamp", "endpoint", "input_summary", "success", "duration_ms", "output_summary", "error", "source", "staffer_id", "sig_hash", "event_kind", "role", "city", "state", "count", "rescue_attempted", "rescue_succeeded", "task_class", "correction", "applied_at_turn", "v", "op_id", "trace_id", "span_id", "parent_span_id", "error_type", "features", "task", "exposure_id", "event_id", "amends", "extra")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    class ExtraEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    INPUT_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STAFFER_ID_FIELD_NUMBER: _ClassVar[int]
    SIG_HASH_FIELD_NUMBER: _ClassVar[int]
    EVENT_KIND_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RESCUE_ATTEMPTED_FIELD_NUMBER: _ClassVar[int]
    RESCUE_SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_AT_TURN_FIELD_NUMBER: _ClassVar[int]
    V_FIELD_NUMBER: _ClassVar[int]
    OP_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    AMENDS_FIELD_NUMBER: _ClassVar[int]
    EXTRA_FIELD_NUMBER: _ClassVar[int]
    timestamp: str
    endpoint: str
    input_summary: str
    success: bool
    duration_ms: Number
    output_summary: str
    error: str
    source: str
    staffer_id: str
    sig_hash: str
    event_kind: str
    role: str
    city: str
    state: str
    count: Number
    rescue_attempted: bool
    rescue_succeeded: bool
    task_class: str
    correction: str
    applied_at_turn: Number
    v: int
    op_id: str
    trace_id: str
    span_id: str
    parent_span_id: str
    error_type: str
    features: _containers.MessageMap[str, Scalar]
    task: str
    exposure_id: str
    event_id: str
    amends: str
    extra: _containers.MessageMap[str, Scalar]
    def __init__(self, timestamp: _Optional[str] = ..., endpoint: _Optional[str] = ..., input_summary: _Optional[str] = ..., success: _Optional[bool] = ..., duration_ms: _Optional[_Union[Number, _Mapping]] = ..., output_summary: _Optional[str] = ..., error: _Optional[str] = ..., source: _Optional[str] = ..., staffer_id: _Optional[str] = ..., sig_hash: _Optional[str] = ..., event_kind: _Optional[str] = ..., role: _Optional[str] = ..., city: _Optional[str] = ..., state: _Optional[str] = ..., count: _Optional[_Union[Number, _Mapping]] = ..., rescue_attempted: _Optional[bool] = ..., rescue_succeeded: _Optional[bool] = ..., task_class: _Optional[str] = ..., correction: _Optional[str] = ..., applied_at_turn: _Optional[_Union[Number, _Mapping]] = ..., v: _Optional[int] = ..., op_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., parent_span_id: _Optional[str] = ..., error_type: _Optional[str] = ..., features: _Optional[_Mapping[str, Scalar]] = ..., task: _Optional[str] = ..., exposure_id: _Optional[str] = ..., event_id: _Optional[str] = ..., amends: _Optional[str] = ..., extra: _Optional[_Mapping[str, Scalar]] = ...) -> None: ...

class Scalar(_message.Message):
    __slots__ = ("string_value", "bool_value", "int_value", "double_value")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    bool_value: bool
    int_value: int
    double_value: float
    def __init__(self, string_value: _Optional[str] = ..., bool_value: _Optional[bool] = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ("int_value", "double_value")
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    int_value: int
    double_value: float
    def __init__(self, int_value: _Optional[int] = ..., double_value: _Optional[float] = ...) -> None: ...

class SpanRef(_message.Message):
    __slots__ = ("trace_id", "span_id")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    span_id: str
    def __init__(self, trace_id: _Optional[str] = ..., span_id: _Optional[str] = ...) -> None: ...

class Incident(_message.Message):
    __slots__ = ("fingerprint", "endpoint", "message", "count", "first_seen", "last_seen", "error_type", "by_source", "evidence", "samples", "diagnosed_count", "diagnosis", "diagnosed_by", "by_role", "by_city", "by_staffer", "by_sig_hash", "state", "kind", "decided_at", "decided_by", "note", "diagnosis_id", "diagnosis_version", "diagnosed_at", "finding", "aliases")
    class BySourceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ByRoleEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ByCityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ByStafferEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class BySigHashEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    BY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSIS_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSED_BY_FIELD_NUMBER: _ClassVar[int]
    BY_ROLE_FIELD_NUMBER: _ClassVar[int]
    BY_CITY_FIELD_NUMBER: _ClassVar[int]
    BY_STAFFER_FIELD_NUMBER: _ClassVar[int]
    BY_SIG_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSIS_ID_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSIS_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSED_AT_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    endpoint: str
    message: str
    count: int
    first_seen: str
    last_seen: str
    error_type: str
    by_source: _containers.ScalarMap[str, int]
    evidence: _containers.RepeatedCompositeFieldContainer[SpanRef]
    samples: _containers.RepeatedScalarFieldContainer[str]
    diagnosed_count: int
    diagnosis: str
    diagnosed_by: str
    by_role: _containers.ScalarMap[str, int]
    by_city: _containers.ScalarMap[str, int]
    by_staffer: _containers.ScalarMap[str, int]
    by_sig_hash: _containers.ScalarMap[str, int]
    state: str
    kind: str
    decided_at: str
    decided_by: str
    note: str
    diagnosis_id: str
    diagnosis_version: int
    diagnosed_at: str
    finding: Finding
    aliases: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, fingerprint: _Optional[str] = ..., endpoint: _Optional[str] = ..., message: _Optional[str] = ..., count: _Optional[int] = ..., first_seen: _Optional[str] = ..., last_seen: _Optional[str] = ..., error_type: _Optional[str] = ..., by_source: _Optional[_Mapping[str, int]] = ..., evidence: _Optional[_Iterable[_Union[SpanRef, _Mapping]]] = ..., samples: _Optional[_Iterable[str]] = ..., diagnosed_count: _Optional[int] = ..., diagnosis: _Optional[str] = ..., diagnosed_by: _Optional[str] = ..., by_role: _Optional[_Mapping[str, int]] = ..., by_city: _Optional[_Mapping[str, int]] = ..., by_staffer: _Optional[_Mapping[str, int]] = ..., by_sig_hash: _Optional[_Mapping[str, int]] = ..., state: _Optional[str] = ..., kind: _Optional[str] = ..., decided_at: _Optional[str] = ..., decided_by: _Optional[str] = ..., note: _Optional[str] = ..., diagnosis_id: _Optional[str] = ..., diagnosis_version: _Optional[int] = ..., diagnosed_at: _Optional[str] = ..., finding: _Optional[_Union[Finding, _Mapping]] = ..., aliases: _Optional[_Iterable[str]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("cause", "adjustment", "avoid", "when", "by")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    ADJUSTMENT_FIELD_NUMBER: _ClassVar[int]
    AVOID_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    cause: str
    adjustment: str
    avoid: str
    when: str
    by: str
    def __init__(self, cause: _Optional[str] = ..., adjustment: _Optional[str] = ..., avoid: _Optional[str] = ..., when: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class Diagnosis(_message.Message):
    __slots__ = ("diagnosis_id", "at", "by", "text", "failures", "incidents", "context", "evidence", "findings", "versions", "texts")
    class IncidentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FindingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Finding
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Finding, _Mapping]] = ...) -> None: ...
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TextsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DIAGNOSIS_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    INCIDENTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    diagnosis_id: str
    at: str
    by: str
    text: str
    failures: int
    incidents: _containers.ScalarMap[str, int]
    context: str
    evidence: _containers.RepeatedCompositeFieldContainer[SpanRef]
    findings: _containers.MessageMap[str, Finding]
    versions: _containers.ScalarMap[str, int]
    texts: _containers.ScalarMap[str, str]
    def __init__(self, diagnosis_id: _Optional[str] = ..., at: _Optional[str] = ..., by: _Optional[str] = ..., text: _Optional[str] = ..., failures: _Optional[int] = ..., incidents: _Optional[_Mapping[str, int]] = ..., context: _Optional[str] = ..., evidence: _Optional[_Iterable[_Union[SpanRef, _Mapping]]] = ..., findings: _Optional[_Mapping[str, Finding]] = ..., versions: _Optional[_Mapping[str, int]] = ..., texts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PlaybookEntry(_message.Message):
    __slots__ = ("playbook_id", "version", "at", "kind", "endpoint", "text", "successes", "avg_duration_ms", "evidence", "when", "set", "rate", "other_rate", "calls", "other_calls", "plain", "author", "scope", "came_from")
    class WhenEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Term
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...
    class SetEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Term
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...
    PLAYBOOK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SUCCESSES_FIELD_NUMBER: _ClassVar[int]
    AVG_DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    OTHER_RATE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    OTHER_CALLS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CAME_FROM_FIELD_NUMBER: _ClassVar[int]
    playbook_id: str
    version: int
    at: str
    kind: str
    endpoint: str
    text: str
    successes: int
    avg_duration_ms: float
    evidence: _containers.RepeatedCompositeFieldContainer[SpanRef]
    when: _containers.MessageMap[str, Term]
    set: _containers.MessageMap[str, Term]
    rate: float
    other_rate: float
    calls: int
    other_calls: int
    plain: bool
    author: str
    scope: _containers.RepeatedScalarFieldContainer[str]
    came_from: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, playbook_id: _Optional[str] = ..., version: _Optional[int] = ..., at: _Optional[str] = ..., kind: _Optional[str] = ..., endpoint: _Optional[str] = ..., text: _Optional[str] = ..., successes: _Optional[int] = ..., avg_duration_ms: _Optional[float] = ..., evidence: _Optional[_Iterable[_Union[SpanRef, _Mapping]]] = ..., when: _Optional[_Mapping[str, Term]] = ..., set: _Optional[_Mapping[str, Term]] = ..., rate: _Optional[float] = ..., other_rate: _Optional[float] = ..., calls: _Optional[int] = ..., other_calls: _Optional[int] = ..., plain: _Optional[bool] = ..., author: _Optional[str] = ..., scope: _Optional[_Iterable[str]] = ..., came_from: _Optional[_Iterable[str]] = ...) -> None: ...

class Term(_message.Message):
    __slots__ = ("string_value", "bool_value", "int_value", "double_value", "range", "left_out")
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    string_value: str
    bool_value: bool
    int_value: int
    double_value: float
    range: Range
    left_out: bool
    def __init__(self, string_value: _Optional[str] = ..., bool_value: _Optional[bool] = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., range: _Optional[_Union[Range, _Mapping]] = ..., left_out: _Optional[bool] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("above", "up_to")
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    UP_TO_FIELD_NUMBER: _ClassVar[int]
    above: float
    up_to: float
    def __init__(self, above: _Optional[float] = ..., up_to: _Optional[float] = ...) -> None: ...

class GetAdviceRequest(_message.Message):
    __slots__ = ("endpoint", "task", "facts", "given", "limit")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scalar
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    GIVEN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    task: str
    facts: _containers.MessageMap[str, Scalar]
    given: _containers.RepeatedScalarFieldContainer[str]
    limit: int
    def __init__(self, endpoint: _Optional[str] = ..., task: _Optional[str] = ..., facts: _Optional[_Mapping[str, Scalar]] = ..., given: _Optional[_Iterable[str]] = ..., limit: _Optional[int] = ...) -> None: ...

class GetAdviceResponse(_message.Message):
    __slots__ = ("exposure_id", "advice", "depends_on", "hints")
    EXPOSURE_ID_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    exposure_id: str
    advice: _containers.RepeatedCompositeFieldContainer[AdviceItem]
    depends_on: _containers.RepeatedScalarFieldContainer[str]
    hints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, exposure_id: _Optional[str] = ..., advice: _Optional[_Iterable[_Union[AdviceItem, _Mapping]]] = ..., depends_on: _Optional[_Iterable[str]] = ..., hints: _Optional[_Iterable[str]] = ...) -> None: ...

class AdviceItem(_message.Message):
    __slots__ = ("id", "version", "kind", "state", "text", "when", "set", "evidence", "effect")
    class WhenEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Term
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...
    class SetEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Term
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Term, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    kind: str
    state: str
    text: str
    when: _containers.MessageMap[str, Term]
    set: _containers.MessageMap[str, Term]
    evidence: int
    effect: float
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., kind: _Optional[str] = ..., state: _Optional[str] = ..., text: _Optional[str] = ..., when: _Optional[_Mapping[str, Term]] = ..., set: _Optional[_Mapping[str, Term]] = ..., evidence: _Optional[int] = ..., effect: _Optional[float] = ...) -> None: ...

class ReportOutcomeRequest(_message.Message):
    __slots__ = ("exposure_id", "success")
    EXPOSURE_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    exposure_id: str
    success: bool
    def __init__(self, exposure_id: _Optional[str] = ..., success: _Optional[bool] = ...) -> None: ...

class ReportOutcomeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
