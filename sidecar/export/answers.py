"""What a collector's answer means for the spans of a request. Source: OTLP specification, responses and throttling.

One thing is decided otherwise: to OTLP, credentials that are not known are final. Here the spans are on disk, and wait
until a person has put the setting right, or a bound of the disk is reached.
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
_MOST_TEXT: Final = 300  # characters of what a collector says that go into our log


@dataclass(frozen=True, slots=True)
class Answer:
    """*verdict* on a request; *rejected* spans of a delivered one; *wait_s* that the collector asked for.

    *answered* is False where nobody was there to answer. *why* is for the log.
    """

    verdict: Literal["delivered", "retry", "refused", "too_large"]
    why: str = ""
    rejected: int = 0
    wait_s: float | None = None
    answered: bool = True


def delivered(body: bytes) -> Answer:
    """The request was taken; its `partial_success` may say that some spans were not, which are not sent again."""
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # a body of another kind under a good status: it was taken
        return Answer("delivered")
    return Answer("delivered", partial.error_message[:_MOST_TEXT], max(0, partial.rejected_spans))


def unreachable(why: str) -> Answer:
    """Nobody answered, or the connection failed."""
    return Answer("retry", why[:_MOST_TEXT], answered=False)


def http_answer(status: int, body: bytes, retry_after: str, now_ns: int) -> Answer:
    """The meaning of an HTTP *status* with *body*; *retry_after* is that header, *now_ns* the wall clock."""
    if 200 <= status < 300:
        return delivered(body)
    why = f"HTTP {status} {_readable(body)}".strip()
    if status == 413:
        return Answer("too_large", why)
    if status in _RETRYABLE_HTTP | UNKNOWN_CREDENTIALS_HTTP:
        return Answer("retry", why, wait_s=asked_seconds(retry_after, now_ns))
    return Answer("refused", why)


def grpc_answer(code: str, details: str, wait_s: float | None) -> Answer:
    """The meaning of a gRPC status *code* that is not OK; *wait_s* is RetryInfo's delay, if there was one."""
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
