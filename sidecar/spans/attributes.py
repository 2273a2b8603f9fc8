"""Attribute keys: the standard ones from the semantic conventions, and our own under `observer.`."""

from __future__ import annotations

from typing import Final

from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes

from sidecar.model import ObservedOp

ERROR_TYPE: Final = error_attributes.ERROR_TYPE
HTTP_REQUEST_METHOD: Final = http_attributes.HTTP_REQUEST_METHOD
HTTP_RESPONSE_STATUS_CODE: Final = http_attributes.HTTP_RESPONSE_STATUS_CODE
SERVER_ADDRESS: Final = server_attributes.SERVER_ADDRESS
SERVER_PORT: Final = server_attributes.SERVER_PORT
URL_FULL: Final = url_attributes.URL_FULL
ERROR_TYPE_OTHER: Final = "_OTHER"

OP_PREFIX: Final = "observer.op."
FEATURES_PREFIX: Final = OP_PREFIX + "features."
EXTRA_PREFIX: Final = OP_PREFIX + "extra."

LANGFUSE_TYPE: Final = "langfuse.observation.type"
LANGFUSE_LEVEL: Final = "langfuse.observation.level"
LANGFUSE_MESSAGE: Final = "langfuse.observation.status_message"
LANGFUSE_INPUT: Final = "langfuse.observation.input"
LANGFUSE_OUTPUT: Final = "langfuse.observation.output"
LANGFUSE_MODEL: Final = "langfuse.observation.model.name"
LANGFUSE_PARAMETERS: Final = "langfuse.observation.model.parameters"
LANGFUSE_USAGE: Final = "langfuse.observation.usage_details"
LANGFUSE_COST: Final = "langfuse.observation.cost_details"
LANGFUSE_TRACE_NAME: Final = "langfuse.trace.name"
LANGFUSE_EVENT: Final = "langfuse:"
"""Prefix of the `event_id` of an op that is a Langfuse observation; trace id and span id follow."""
USER_ID: Final = "user.id"
SESSION_ID: Final = "session.id"

CYCLE_NUMBER: Final = "observer.cycle.number"
DIAGNOSIS_ID: Final = "observer.diagnosis.id"
DIAGNOSIS_BY: Final = "observer.diagnosis.by"
DIAGNOSIS_TEXT: Final = "observer.diagnosis.text"
DIAGNOSIS_FAILURES: Final = "observer.diagnosis.failures"
PLAYBOOK_ID: Final = "observer.playbook.id"
PLAYBOOK_VERSION: Final = "observer.playbook.version"
PLAYBOOK_TEXT: Final = "observer.playbook.text"

_FROM_CONTEXT = ("trace_id", "span_id", "parent_span_id")
_MAPS = ("features", "extra")

FIELD_KEYS: Final[tuple[tuple[str, str], ...]] = tuple(
    (name, OP_PREFIX + name) for name in ObservedOp.__struct_fields__ if name not in (*_FROM_CONTEXT, *_MAPS)
)
"""(op field, attribute key) of each field stored as one attribute; trace and span ids are in the span's context."""

KEY_FIELDS: Final[dict[str, str]] = {key: name for name, key in FIELD_KEYS}
"""Attribute key → op field."""

OP_ID: Final = OP_PREFIX + "op_id"
"""A span that has this attribute is an op."""
