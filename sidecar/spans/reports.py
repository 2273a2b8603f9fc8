"""Whether a report can be of a call beside it, which has the same parent span: ids alone do not tell.

An agent's span may hold a model's call and a tool's, and the outcome of the whole task is posted under it too. In doubt
these are different operations: a call counted twice does less harm than one that is given another's outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.call_fields import SCENARIO
from sidecar.model import ObservedOp
from sidecar.spans.conventions_table import MODEL_OPERATIONS, OPERATION, Kind

_TOOL: Final = "execute_tool "
_MOST_PATH: Final = 2048  # characters of a path that is compared with a template; a sender's may have a million


def can_report(kind: Kind, report: ObservedOp, sibling_kind: Kind, sibling: ObservedOp, names: Iterable[str]) -> bool:
    """Whether *report*, witnessed as *kind*, can be about the call *sibling*, whose endpoint is one of *names*.

    An event that names a call is about that call only. One that names none, as a scenario's, must agree with the call's
    outcome. Otherwise a model's call is told from others, and a tool's from that of another tool.
    """
    if kind is not Kind.EVENT:
        about, called = _is_model_call(kind, report), _is_model_call(sibling_kind, sibling)
        return (about is None or called is None or about == called) and not _is_other_tool(report.endpoint, names)
    if not report.endpoint or report.endpoint.startswith(SCENARIO):
        return report.success == sibling.success
    return any(_is_named(report.endpoint, name) for name in names)


def _is_model_call(kind: Kind, op: ObservedOp) -> bool | None:
    """None if the witness does not know."""
    operation = op.extra.get(OPERATION) if op.extra else None
    if operation is not None and kind is not Kind.HTTP:
        return operation in MODEL_OPERATIONS
    return False if kind is Kind.PROXY else None  # it knows the paths of models' calls


def _is_other_tool(told: str, names: Iterable[str]) -> bool:
    """Whether *told* and *names* name tools, and different ones."""
    if not told.startswith(_TOOL):
        return False
    tools = [name for name in names if name.startswith(_TOOL)]
    return bool(tools) and told not in tools


def _is_named(told: str, endpoint: str) -> bool:
    """Whether *told* is *endpoint*: `/orders/{id}` or a path of it; `execute_tool find` or the tool's name."""
    if told == endpoint or told == endpoint.partition(" ")[2]:
        return True
    if len(told) > _MOST_PATH:
        return False
    parts, own = told.split("/"), endpoint.split("/")
    return len(parts) == len(own) and all(a == b or b[:1] == "{" for a, b in zip(parts, own, strict=True))
