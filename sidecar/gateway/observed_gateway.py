"""The wrapper for Python agents: records each call to the gateway as a CLIENT span, and thereby as an op.

Calls go over httpx. The end of the span passes the op on (see `spans.span_processor`), and nothing waits for the
journal. Failures of the gateway are not raised: the caller gets `{"error": …}`, and the op records the failure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx
import msgspec
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.clock import rfc3339_ms
from sidecar.gateway.features import request_features
from sidecar.gateway.summary import summarize
from sidecar.gateway_address import GatewayAddress
from sidecar.ids import new_id
from sidecar.model import SCHEMA_VERSION, ObservedOp
from sidecar.normalize import Normalizer, json_text
from sidecar.protocols import CallSpans, Clock
from sidecar.spans import attributes as keys

_MOST_ERROR = 8192  # characters of the op's error; the caller gets the whole text
_MAPS = ("features", "extra")
_GIVEN = frozenset(ObservedOp.__struct_fields__) - {
    *("timestamp", "endpoint", "input_summary", "success", "duration_ms", "output_summary", "error", "error_type"),
    *("v", "op_id", "trace_id", "span_id", "parent_span_id"),
}
_W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


class _Outcome(NamedTuple):
    """The result of a call: the caller's *data*, the HTTP *status*, and *error* with its code if the call failed."""

    data: Any
    error: str | None = None
    error_type: str | None = None
    status: int | None = None


_CANCELLED = _Outcome(None, "cancelled by the caller", "CancelledError")


class ObservedGateway:
    """Makes observed calls to the gateway at *base_url*. Concurrent calls on one event loop are safe."""

    def __init__(
        self,
        base_url: str,
        client: httpx.AsyncClient,
        spans: CallSpans,
        normalizer: Normalizer,
        clock: Clock,
        *,
        timeout_s: float,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = client
        self._spans = spans
        self._normalizer = normalizer
        self._clock = clock
        self._timeout_s = timeout_s
        address = GatewayAddress.of(base_url)
        self._server: dict[str, str | int] = {
            keys.HTTP_REQUEST_METHOD: "POST",
            keys.SERVER_ADDRESS: address.host,
            keys.SERVER_PORT: address.port,
        }

    async def observed(self, endpoint: str, body: Any, description: str, **fields: Any) -> tuple[Any, ObservedOp]:
        """POST *body* as JSON to *endpoint* (a path); return the decoded answer and the op.

        A call fails if its status is not 2xx, or if the answer has an `error` or is not JSON; without an answer the
        caller gets `{"error": message}`. *fields* are further fields of the op (`task`, `staffer_id`, `role`…).
        Raises TypeError or ValueError, before anything is sent, if *body* is not JSON or a field is not one of an op.
        """
        _check(endpoint, description, fields)
        content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        # Without the slash an endpoint such as `@elsewhere/` would change the host.
        url = self._base_url + (endpoint if endpoint.startswith("/") else f"/{endpoint}")
        started_ns, started = self._clock.time_ns(), self._clock.monotonic()
        within = get_current_span().get_span_context()
        call = self._spans.begin(self._normalizer.text(endpoint), within if within.is_valid else None)
        outcome = _CANCELLED
        try:
            outcome = await self._call(url, content, call.context)
        finally:  # also a cancelled call becomes an op
            elapsed_ns = round((self._clock.monotonic() - started) * 1e9)
            cut = self._normalizer.cut
            error = cut(outcome.error, _MOST_ERROR) if outcome.error is not None else None
            op = self._normalizer.op(
                ObservedOp(
                    timestamp=rfc3339_ms(started_ns + elapsed_ns),
                    endpoint=endpoint,
                    input_summary=description,
                    success=error is None,
                    duration_ms=round(elapsed_ns / 1e6, 3),
                    output_summary=f"ERROR: {error}" if error is not None else summarize(outcome.data, cut),
                    error=error,
                    error_type=outcome.error_type,
                    **{"source": "mcp", "features": request_features(body, cut) or None, **fields},
                    v=SCHEMA_VERSION,
                    op_id=new_id(),
                )
            )
            beside = {**self._server, keys.URL_FULL: self._normalizer.text(url)}
            if outcome.status is not None:
                beside[keys.HTTP_RESPONSE_STATUS_CODE] = outcome.status
            op = self._spans.end(call, op, (started_ns, started_ns + elapsed_ns), beside)
        return outcome.data, op

    async def _call(self, url: str, content: bytes, span: SpanContext) -> _Outcome:
        headers = {"Content-Type": "application/json"}
        _W3C.inject(headers, set_span_in_context(NonRecordingSpan(span)))
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx's own restarts with every byte
                response = await self._client.post(url, content=content, headers=headers, timeout=None)
            return _outcome(response)
        except TimeoutError:
            message = f"no answer within {self._timeout_s:g} s"
            return _Outcome({"error": message}, message, TimeoutError.__name__)
        except Exception as exc:  # noqa: BLE001 - any failure of gateway or network is the op's outcome
            message = str(exc) or type(exc).__name__
            return _Outcome({"error": message}, message, type(exc).__name__)


def _check(endpoint: str, description: str, fields: Mapping[str, Any]) -> None:
    """Check that the arguments form a valid op, before anything is sent. Raises TypeError."""
    for name in fields.keys() - _GIVEN:
        raise TypeError(f"{name!r} is not a field that a caller may set")
    for name in _MAPS:
        if not isinstance(fields.get(name), dict | None):
            raise TypeError(f"{name} must be a dict")
    texts = {name: value for name, value in fields.items() if name not in _MAPS}
    sketch = {"timestamp": "", "success": True, "duration_ms": 0, "output_summary": ""}
    try:
        msgspec.convert({**sketch, "endpoint": endpoint, "input_summary": description, **texts}, ObservedOp)
    except msgspec.ValidationError as exc:
        raise TypeError(str(exc)) from exc


def _outcome(response: httpx.Response) -> _Outcome:
    status = response.status_code
    failed = None if response.is_success else f"HTTP {status} {response.reason_phrase}".strip()
    if not response.content:
        return _Outcome({"error": failed} if failed else {}, failed, failed and str(status), status)
    try:
        data = response.json()
    except (ValueError, RecursionError) as exc:
        message = failed or f"the answer is not JSON: {exc}"
        return _Outcome({"error": message}, message, str(status) if failed else type(exc).__name__, status)
    said = data.get("error") if isinstance(data, dict) else None
    if said:
        failed = said if isinstance(said, str) else json_text(said)
    if failed is None:
        return _Outcome(data, status=status)
    return _Outcome(data, failed, keys.ERROR_TYPE_OTHER if response.is_success else str(status), status)
