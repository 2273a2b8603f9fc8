"""Derives the parts of an op from a proxied call: endpoint, summaries, inputs and outcome.

The captured bodies are bounded, and so is the work. It is done after the last byte (`asked`: before the answer).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from sidecar.call_fields import FIELD_SET, feature_name
from sidecar.gateway.body_reader import ReadBody, read_body
from sidecar.gateway.features import request_features
from sidecar.gateway.json_rpc import RpcCall, result_text, rpc_answer, rpc_call, rpc_failure
from sidecar.gateway.llm_usage import TOOL_CALLS, LlmCall, llm_call, stream_error
from sidecar.gateway.op_headers import op_fields
from sidecar.gateway.proxied_call import ProxiedCall
from sidecar.gateway.proxy_advice import Asked
from sidecar.gateway.proxy_head import Headers, header
from sidecar.gateway.route_template import Templates
from sidecar.gateway.summary import summarize
from sidecar.normalize import Normalizer, json_text
from sidecar.spans.attributes import ERROR_TYPE_OTHER

TOOL_NAME = "gen_ai.tool.name"
MCP_METHOD = "mcp.method.name"
MCP_SESSION = "mcp.session.id"
_INPUT_CHARACTERS = 200
_OUTPUT_CHARACTERS = 100
_MASKED = 2048  # characters of a text that are masked for a summary: masking more would block the event loop
_LEADING_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*(?!null|false|""|0[,}\s])')


class CallFacts(NamedTuple):
    """The parts of an op. *fields*: set by the agent in headers; *attributes*: of the span, beside the op's own."""

    endpoint: str
    input_summary: str
    output_summary: str
    error: str | None
    error_type: str | None
    features: dict[str, Any]
    fields: dict[str, Any]
    extra: dict[str, Any]
    attributes: dict[str, Any]


class FactReader:
    """Derives facts from calls. *templates* bounds the number of endpoint names."""

    def __init__(self, normalizer: Normalizer, templates: Templates) -> None:
        self._normalizer = normalizer
        self._cut = normalizer.cut
        self._templates = templates
        self._target = lru_cache(maxsize=512)(self._readable_target)  # agents call few distinct targets

    def read(self, call: ProxiedCall) -> CallFacts:
        """All facts of *call*, which has ended."""
        asked = _body(call.request_body, call.request.headers)
        answer = _body(call.response_body, call.response.headers if call.response is not None else ())
        rpc = rpc_call(asked.data)
        llm = None if rpc is not None else llm_call(_path(call), asked.data)
        error, error_type = _outcome(call, answer, rpc, llm)
        fields, extra = op_fields(call.request.op_headers)
        attributes: dict[str, Any] = {}
        if rpc is not None:
            attributes = _rpc_attributes(rpc, call)
        elif llm is not None:
            llm.read([answer.data] if answer.has_data else answer.messages)
            attributes = llm.attributes
        return CallFacts(
            endpoint=self._endpoint(call, rpc),
            input_summary=self._input(call, asked, rpc, llm),
            output_summary=self._output(call, answer, rpc, llm),
            error=error,
            error_type=error_type,
            features=self._features(call, asked.data, rpc),
            fields=fields,
            extra={**extra, **_op_attributes(attributes)},
            attributes=attributes,
        )

    def asked(self, call: ProxiedCall) -> Asked:
        """The facts of *call* that its request tells, for advice before it is answered."""
        body = _body(call.request_body, call.request.headers)
        rpc = rpc_call(body.data)
        fields, _ = op_fields(call.request.op_headers)
        features = self._normalizer.scalars(self._features(call, body.data, rpc)) or {}
        known = {name: each for name, each in fields.items() if name in FIELD_SET}
        inputs = {feature_name(name): each for name, each in features.items()}
        task = fields.get("task")
        return Asked(
            endpoint=self._normalizer.text(self._endpoint(call, rpc)),
            facts={**inputs, **(self._normalizer.scalars(known) or {})},
            task=self._normalizer.text(task) if isinstance(task, str) and task else None,
        )

    def _endpoint(self, call: ProxiedCall, rpc: RpcCall | None) -> str:
        return self._templates.bounded(f"{call.template} {rpc.name}") if rpc is not None else call.template

    def _features(self, call: ProxiedCall, body: Any, rpc: RpcCall | None) -> dict[str, Any]:
        query = call.request.target.partition(b"?")[2].partition(b"#")[0].decode("latin-1")
        asked = request_features(rpc.arguments if rpc is not None else body, self._cut)
        return {**request_features(self._normalizer.query(query), self._cut), **asked} if query else asked

    def _input(self, call: ProxiedCall, asked: ReadBody, rpc: RpcCall | None, llm: LlmCall | None) -> str:
        if rpc is not None:
            said = f"{rpc.name} {json_text(rpc.arguments) if rpc.arguments else ''}"
        elif llm is not None:
            said = f"{llm.operation} {llm.model}: {llm.asked_text}"
        else:
            said = f"{call.request.method.decode('ascii')} {self._target(call.request.target[:1024])} {_shown(asked)}"
        return self._cut(said[:_MASKED].strip(), _INPUT_CHARACTERS)

    def _readable_target(self, target: bytes) -> str:
        # Mask before decoding: a decoded space would end the secret, and leave its rest unmasked.
        return unquote_plus(self._normalizer.text(target.decode("latin-1")))

    def _output(self, call: ProxiedCall, answer: ReadBody, rpc: RpcCall | None, llm: LlmCall | None) -> str:
        if rpc is not None:
            return self._rpc_output(rpc, answer)
        if llm is not None and (llm.text or llm.tools):
            return summarize({"answer": llm.text or f"asks for {', '.join(llm.tools)}"}, self._cut)
        if answer.has_data:
            return summarize(answer.data, self._cut)
        if answer.is_stream:
            first = json_text(answer.messages[0]) if answer.messages else answer.text
            return self._cut(first[:_MASKED], _OUTPUT_CHARACTERS)
        if answer.text and answer.readable:
            return self._cut(answer.text[:_MASKED], _OUTPUT_CHARACTERS)
        return _described(call)

    def _rpc_output(self, rpc: RpcCall, answer: ReadBody) -> str:
        message = rpc_answer(rpc, [answer.data] if answer.has_data else answer.messages)
        result = message.get("result") if message is not None else None
        if isinstance(result, dict):
            text = result_text(result)
            return self._cut(text[:_MASKED], _OUTPUT_CHARACTERS) if text else summarize(result, self._cut)
        return summarize(result, self._cut) if result is not None else "no result"


def plain_facts(call: ProxiedCall) -> CallFacts:
    """The facts of *call* without parsing its bodies: the fallback if `FactReader.read` fails."""
    error, error_type = _outcome(call, ReadBody(has_data=True), None, None)
    method = call.request.method.decode("ascii", "replace")
    return CallFacts(call.template, f"{method} {call.template}", _described(call), error, error_type, {}, {}, {}, {})


def _body(capture: Any, headers: Headers) -> ReadBody:
    kind, coding = header(headers, b"content-type").lower(), header(headers, b"content-encoding").lower()
    return read_body(capture, kind, coding)


def _path(call: ProxiedCall) -> str:
    return re.split(rb"[?#]", call.request.upstream_target, maxsplit=1)[0].decode("latin-1")


def _shown(body: ReadBody) -> str:
    return json_text(body.data) if body.has_data else body.text[:1024] if body.readable else ""


def _described(call: ProxiedCall) -> str:
    if call.response is None:
        return "no answer"
    size = call.response_body.size
    kind = header(call.response.headers, b"content-type").split(";")[0].strip()
    return f"{kind or 'content'}, {size} bytes" if size else "no content"


def _outcome(
    call: ProxiedCall, answer: ReadBody, rpc: RpcCall | None, llm: LlmCall | None
) -> tuple[str | None, str | None]:
    """(message, code) of the failure; (None, None) if the call succeeded."""
    if call.error is not None and not _closed_subscription(call):
        return call.error, call.error_type
    response = call.response
    if response is None:
        return "no answer", ERROR_TYPE_OTHER
    status = response.status
    message = rpc_answer(rpc, [answer.data] if answer.has_data else answer.messages) if rpc is not None else None
    rpc_failed = rpc_failure(message) if message is not None else None
    if rpc_failed is not None:
        return rpc_failed[0], rpc_failed[1] if status < 400 else str(status)
    failed = f"HTTP {status} {response.reason.decode('latin-1')}".strip() if status >= 400 else None
    said = _reported_error(call, answer, llm)
    if said:
        failed = said if isinstance(said, str) else json_text(said)
    if failed is None:
        return None, None
    return failed, str(status) if status >= 400 else ERROR_TYPE_OTHER


def _reported_error(call: ProxiedCall, answer: ReadBody, llm: LlmCall | None) -> Any:
    if isinstance(answer.data, dict):
        return answer.data.get("error")
    if answer.is_stream:
        return stream_error(answer.messages, of_model=llm is not None)
    prefix = b"" if answer.has_data else call.response_body.prefix[:256]
    if _LEADING_ERROR.match(prefix):  # too large to be parsed as a whole
        return prefix.decode(errors="replace")
    return None


def _closed_subscription(call: ProxiedCall) -> bool:
    """Whether the agent closed an event stream that it had opened with GET: its only end, so not a failure."""
    response = call.response
    return (
        call.hung_up
        and call.request.method == b"GET"
        and response is not None
        and "event-stream" in header(response.headers, b"content-type").lower()
    )


def _rpc_attributes(rpc: RpcCall, call: ProxiedCall) -> dict[str, Any]:
    session = header(call.request.headers, b"mcp-session-id")
    attributes: dict[str, Any] = {"rpc.system.name": "jsonrpc", "rpc.method": rpc.method}
    if rpc.is_mcp or session:
        attributes[MCP_METHOD] = rpc.method
    if session:
        attributes[MCP_SESSION] = session[:256]
    if rpc.method == "tools/call" and rpc.tool:
        attributes["gen_ai.operation.name"] = "execute_tool"
        attributes[TOOL_NAME] = rpc.tool
    return attributes


def _op_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The *attributes* that the op's `extra` contains too: model, tokens, tools, MCP method and session."""
    kept = ("gen_ai.operation", "gen_ai.provider", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.usage")
    return {
        key: value
        for key, value in attributes.items()
        if key.startswith(kept) or key in (TOOL_NAME, TOOL_CALLS, MCP_METHOD, MCP_SESSION)
    }
