"""Converts errors to `google.rpc.Status` for OTLP and gRPC clients: a code, a text, and details for the client."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from sidecar.errors import ConflictError, InvalidInputError, NotKnownError, ObserverError, RetryableError
from sidecar.model import ObservedOp

RETRY_S = 1
_FIELDS = frozenset(ObservedOp.__struct_fields__)
_MOST_TEXT = 1000


def status_of(exc: ObserverError) -> Status:
    """*exc* as a Status: `BadRequest` names a wrong field; `RetryInfo` says when to retry, if that makes sense."""
    status = Status(code=_code(exc), message=str(exc)[:_MOST_TEXT])
    if isinstance(exc, RetryableError):
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=RETRY_S)))
    elif isinstance(exc, InvalidInputError):
        what, why, fix = exc.args
        field = str(what).partition(" ")[0]
        violation = BadRequest.FieldViolation(
            field=field if field in _FIELDS else "", description=f"{what}: {why}. {fix}"[:_MOST_TEXT]
        )
        status.details.add().Pack(BadRequest(field_violations=[violation]))
    return status


def plain_status(code: int, message: str) -> Status:
    """A Status without details; *code* is one of `google.rpc.Code`."""
    return Status(code=code, message=message[:_MOST_TEXT])


def status_of_http(status: int, message: str) -> Status:
    """The Status for an HTTP response of *status*. Source: `google.rpc.Code`, its HTTP mapping."""
    return plain_status(
        _OF_HTTP.get(status, code_pb2.INTERNAL if status >= 500 else code_pb2.INVALID_ARGUMENT), message
    )


_OF_HTTP = {
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    409: code_pb2.ALREADY_EXISTS,
    503: code_pb2.UNAVAILABLE,
}


def _code(exc: ObserverError) -> int:
    code: int = code_pb2.INTERNAL
    match exc:
        case ConflictError():
            code = code_pb2.ALREADY_EXISTS
        case NotKnownError():
            code = code_pb2.NOT_FOUND
        case InvalidInputError():
            code = code_pb2.INVALID_ARGUMENT
        case RetryableError():
            code = code_pb2.UNAVAILABLE
    return code
