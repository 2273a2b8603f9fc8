"""Reads JSON-RPC calls and results, and so MCP over HTTP. Sources: JSON-RPC 2.0, MCP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sidecar.normalize import json_text

_NAMED = frozenset(["tools/call", "prompts/get"])
_MCP = ("tools/", "prompts/", "resources/", "notifications/", "completion/", "logging/", "sampling/", "elicitation/")
_TOOL_ERROR = "tool_error"


class RpcCall(NamedTuple):
    """A request: its *method*, the *tool* or prompt that it names, if any, the *arguments*, and *number*, its id."""

    method: str
    tool: str
    arguments: Mapping[str, Any]
    number: Any

    @property
    def name(self) -> str:
        """The method and the tool, as in `tools/call search`."""
        return f"{self.method} {self.tool}" if self.tool else self.method

    @property
    def is_mcp(self) -> bool:
        """Whether the method is one of MCP's."""
        return self.method in ("initialize", "ping") or self.method.startswith(_MCP)


def rpc_call(body: Any) -> RpcCall | None:
    """The JSON-RPC request in *body* (decoded JSON), of a batch the first; None if there is none."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict) or body.get("jsonrpc") != "2.0" or not isinstance(method := body.get("method"), str):
        return None
    params = body.get("params")
    params = params if isinstance(params, dict) else {}
    tool = params.get("name") if method in _NAMED else None
    arguments = params.get("arguments") if method in _NAMED else params
    return RpcCall(
        method[:128],
        tool[:128] if isinstance(tool, str) else "",
        arguments if isinstance(arguments, dict) else {},
        body.get("id"),
    )


def rpc_answer(call: RpcCall, objects: Iterable[Any]) -> dict[str, Any] | None:
    """The response to *call* among *objects*, else the last response. Notifications of a stream are skipped."""
    last: dict[str, Any] | None = None
    for each in objects:
        for message in each if isinstance(each, list) else [each]:
            if isinstance(message, dict) and ("result" in message or "error" in message):
                if message.get("id") == call.number:
                    return message
                last = message
    return last


def rpc_failure(answer: Mapping[str, Any]) -> tuple[str, str] | None:
    """(message, code) of a JSON-RPC error or of a failed tool (`isError`); None if the call succeeded."""
    error = answer.get("error")
    if isinstance(error, dict):
        message, code = error.get("message"), error.get("code")
        text = message if isinstance(message, str) and message else json_text(error)
        return text, str(code) if isinstance(code, int) and not isinstance(code, bool) else "_OTHER"
    if error:
        return error if isinstance(error, str) else json_text(error), "_OTHER"
    result = answer.get("result")
    if isinstance(result, dict) and result.get("isError") is True:
        return result_text(result) or "the tool failed", _TOOL_ERROR
    return None


def result_text(result: Mapping[str, Any]) -> str:
    """The text of an MCP result's content, or ""."""
    content = result.get("content")
    if not isinstance(content, list):
        return ""
    return "\n".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
