"""Turns a Langfuse observation (a `Fragment`) into the op that its span would be, the same for all Langfuse doors.

Called by `langfuse.desk` and `receivers.langfuse_poller`; uses `conventions`, which reads OTLP spans as well.
"""

from __future__ import annotations

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.model import Fragment, ObservedOp, Scalar
from sidecar.spans.conventions import SpanConventions

_MAX_TIME_NS = 2**64 - 1


class FragmentReader:
    """A `FragmentOps` over *conventions*."""

    def __init__(self, conventions: SpanConventions) -> None:
        self._conventions = conventions

    def op_of(self, fragment: Fragment) -> ObservedOp | None:
        """The op, in the normal form, of the complete observation *fragment*; None if it is no operation."""
        return self._conventions.op_of(
            Span(
                trace_id=bytes.fromhex(fragment.trace_id),
                span_id=bytes.fromhex(fragment.span_id),
                parent_span_id=bytes.fromhex(fragment.parent_span_id),
                name=fragment.name,
                start_time_unix_nano=min(fragment.start_ns, _MAX_TIME_NS),
                end_time_unix_nano=min(fragment.end_ns, _MAX_TIME_NS),
                attributes=[KeyValue(key=key, value=_value(value)) for key, value in fragment.attributes.items()],
            )
        )


def _value(value: Scalar) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)
