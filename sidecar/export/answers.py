"""Maps a collector's response to a verdict on the request. Source: OTLP specification, responses and throttling.

One deviation: OTLP treats rejected credentials (401, 403) as permanent. Here they are retried, because the spans are
on disk and wait until a person corrects the setting or a disk bound evicts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from sidecar.retry_after import asked_seconds

_RETRYABLE_HTTP: Final = frozenset({429, 502, 503, 504})
UNKNOWN_CREDENTIALS_HTTP: Final = frozenset({401, 403})
_UNKNOWN_CREDENTIALS_GRPC: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_RETRYABLE_GRPC: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_TOO_LARGE: Final = ("larger than max", "message too large", "message size", "exceeds maximum", "too big")
_MOST_TEXT: Final = 300  # characters of a collector's message that are logged


@dataclass(frozen=True, slots=True)
class Answer:
    """The *verdict* on one request. *rejected*: spans a delivered request lost. *wait_s*: the delay asked for.

    *answered* is False if no collector responded at all. *why* is text for the log.
    """

    verdict: Literal["delivered", "retry", "refused", "too_large"]
    why: str = ""
    rejected: int = 0
    wait_s: float | None = None
    answered: bool = True


def delivered(body: bytes) -> Answer:
    """The request was accepted; its `partial_success` may report rejected spans, which must not be sent again."""
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # not an OTLP body, but a success status: accepted
        return Answer("delivered")
    return Answer("delivered", partial.error_message[:_MOST_TEXT], max(0, partial.rejected_spans))


def unreachable(why: str) -> Answer:
    """No response: nobody listens, or the connection failed."""
    return Answer("retry", why[:_MOST_TEXT], answered=False)


def http_answer(status: int, body: bytes, retry_after: str, now_ns: int) -> Answer:
    """The verdict on an HTTP *status* with *body*; *retry_after* is that header, *now_ns* the wall clock."""
    if 200 <= status < 300:
        return delivered(body)
    why = f"HTTP {status} {_readable(body)}".strip()
    if status == 413:
        return Answer("too_large", why)
    if status in _RETRYABLE_HTTP | UNKNOWN_CREDENTIALS_HTTP:
        return Answer("retry", why, wait_s=asked_seconds(retry_after, now_ns))
    return Answer("refused", why)


def grpc_answer(code: str, details: str, wait_s: float | None) -> Answer:
    """The verdict on a gRPC status *code* other than OK; *wait_s* is RetryInfo's delay, if present."""
    why = f"{code} {details[:_MOST_TEXT]}".strip()
    if code in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE") and any(words in details.lower() for words in _TOO_LARGE):
        return Answer("too_large", why)
    if code == "RESOURCE_EXHAUSTED":
        return Answer("retry" if wait_s is not None else "refused", why, wait_s=wait_s)
    if code in _RETRYABLE_GRPC | _UNKNOWN_CREDENTIALS_GRPC:
        return Answer("retry", why, wait_s=wait_s, answered=code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    return Answer("refused", why)


def _readable(body: bytes) -> str:
    text = body[:_MOST_TEXT].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text).strip()
