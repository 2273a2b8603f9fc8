"""Parses queries: the filters of `/ops` and `/ops/stream`, the query of `/advice`, and pages of any list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import falcon.asgi
import msgspec

from sidecar.call_fields import asked_name, facts_of, names_of
from sidecar.errors import InvalidInputError
from sidecar.model import ObservedOp
from sidecar.model_learning import AdviceQuery
from sidecar.normalize import MAX_ENTRIES
from sidecar.receivers.event_fields import utc_ms

EXACT = (
    "endpoint",
    "source",
    "staffer_id",
    "sig_hash",
    "event_kind",
    "role",
    "city",
    "state",
    "task_class",
    "task",
    "trace_id",
    "span_id",
    "op_id",
    "error_type",
    "exposure_id",
    "event_id",
)
"""Fields that a query may require to equal a text."""

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
ADVICE_LIMIT, MAX_ADVICE = 3, 10
MAX_TASK = 256  # characters of a task's name
MAX_QUESTION_BYTES = 64 * 1024  # the share of the bound on a request's head that a query may use


class OpQuery(msgspec.Struct, frozen=True):
    """A checked query: exact fields, success, and a time range (RFC 3339, inclusive).

    *amended*: include ops that were replaced by later ones.
    """

    exact: dict[str, str]
    success: bool | None
    since: str | None
    until: str | None
    limit: int
    cursor: str | None
    amended: bool = False

    def wants(self, op: ObservedOp) -> bool:
        """Whether *op* matches the whole query."""
        if self.success is not None and op.success is not self.success:
            return False
        if (self.since and op.timestamp < self.since) or (self.until and op.timestamp > self.until):
            return False
        return all(getattr(op, name) == value for name, value in self.exact.items())


def op_query(req: falcon.asgi.Request) -> OpQuery:
    """The query of *req*. Raises InvalidInputError for unknown names and wrong values."""
    params = _params(req)
    exact = {name: params.pop(name) for name in EXACT if name in params}
    known = OpQuery(
        exact=exact,
        success=_taken(params, "success", _boolean),
        since=_taken(params, "since", utc_ms),
        until=_taken(params, "until", utc_ms),
        limit=_taken(params, "limit", _limit) or DEFAULT_LIMIT,
        cursor=params.pop("cursor", None),
        amended=_taken(params, "amended", _boolean) or False,
    )
    _refuse(params)
    return known


def page_query(req: falcon.asgi.Request, *others: str) -> tuple[int, str | None]:
    """Limit and cursor of a list request; *others* are further allowed names. Raises InvalidInputError."""
    params = _params(req)
    limit = _taken(params, "limit", _limit) or MAX_LIMIT
    cursor = params.pop("cursor", None)
    _refuse(params.keys() - set(others))
    return limit, cursor


class ListQuery(msgspec.Struct, frozen=True):
    """A checked query of the playbook. *as_of* is RFC 3339; *task* is the task of the agent that reads."""

    limit: int
    cursor: str | None
    as_of: str | None
    task: str | None


def playbook_query(req: falcon.asgi.Request, clean: Callable[[str], str]) -> ListQuery:
    """The query of *req*; *clean* normalises its task like those of ops. Raises InvalidInputError."""
    limit, cursor = page_query(req, "as_of", "task")
    params = _params(req)
    task = _taken(params, "task", _task)
    return ListQuery(limit, cursor, _taken(params, "as_of", utc_ms), clean(task) if task is not None else None)


def advice_query(req: falcon.asgi.Request, clean: Callable[[str], str]) -> AdviceQuery:
    """The advice query of *req*; *clean* normalises texts like those of ops.

    Raises InvalidInputError.
    """
    params = _params(req)
    endpoint = params.pop("endpoint", "")
    if not endpoint:
        raise InvalidInputError("endpoint is missing", "advice is per endpoint", "Name it: /advice?endpoint=/tools/x")
    limit = _parameter(params, "limit", _limit) or ADVICE_LIMIT
    task = _parameter(params, "task", _task)
    given = [name for name in params.pop("given", "").split(",") if name.strip()]
    most = max(len(params), len(given))
    if most > MAX_ENTRIES:
        raise InvalidInputError(f"{most} features", f"at most {MAX_ENTRIES} are read", "Leave some out")
    return AdviceQuery(
        endpoint=clean(endpoint),
        facts=facts_of({clean(name): clean(value) for name, value in params.items()}),
        task=clean(task) if task is not None else None,
        given=names_of(clean(name.strip()) for name in given),
        limit=min(limit, MAX_ADVICE),
    )


def _parameter(params: dict[str, Any], name: str, read: Callable[[str, str], Any]) -> Any:
    """Like `_taken`, in a query where inputs of the call stand beside parameters."""
    try:
        return _taken(params, name, read)
    except InvalidInputError as exc:
        what, why, fix = exc.args
        fix = f"An input of that name is asked about as {asked_name(name)}. {fix}"
        raise InvalidInputError(what, why, fix) from exc


def _task(name: str, text: str) -> str:
    if not 0 < len(text) <= MAX_TASK:
        raise _wrong(name, text, f"1 to {MAX_TASK} characters")
    return text


def _params(req: falcon.asgi.Request) -> dict[str, Any]:
    params: dict[str, Any] = dict(req.params)
    for name, value in params.items():
        if isinstance(value, list):
            raise _wrong(name, value[0], "to be given once")
    return params


def _refuse(unknown: Iterable[str]) -> None:
    for name in unknown:
        raise InvalidInputError(f"{name[:80]!r} is not known here", "it is not a parameter", "See /openapi.json")


def _taken(params: dict[str, Any], name: str, read: Callable[[str, str], Any]) -> Any:
    return read(name, params.pop(name)) if name in params else None


def _boolean(name: str, text: str) -> bool:
    if text not in ("true", "false", "1", "0"):
        raise _wrong(name, text, "true or false")
    return text in ("true", "1")


def _limit(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise _wrong(name, text, f"a number from 1 to {MAX_LIMIT}")
    return int(text[:9])


def _wrong(name: str, value: str, expected: str) -> InvalidInputError:
    return InvalidInputError(f"{name}={value[:80]!r} is not usable", f"expected {expected}", "See /openapi.json")
