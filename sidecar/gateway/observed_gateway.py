"""The wrapper for Python agents: each call to the gateway is a CLIENT span, and with that an op.

From the gateway over httpx; the span's end hands the op on (see `spans.span_processor`). Nothing here waits for the
journal, and no fault of the gateway's is raised: the caller gets `{"error": …}` and an op that says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import msgspec
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sidecar.clock import rfc3339_ms
from sidecar.gateway.features import request_features
from sidecar.gateway.summary import summarize
from sidecar.ids import new_id
from sidecar.model import SCHEMA_VERSION, ObservedOp
from sidecar.normalize import Normalizer, json_text
from sidecar.protocols import CallSpans, Clock
from sidecar.spans import attributes as keys

_MOST_ERROR = 8192  # characters of the op's error; the caller's data holds all of it
_MAPS = ("features", "extra")
_GIVEN = frozenset(ObservedOp.__struct_fields__) - {
    *("timestamp", "endpoint", "input_summary", "success", "duration_ms", "output_summary", "error", "error_type"),
    *("v", "op_id", "trace_id", "span_id", "parent_span_id"),
}
_W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


class _Outcome(NamedTuple):
    """How a call went: the caller's data, and the error with its code, if there was one."""

    data: Any
    error: str | None = None
    error_type: str | None = None
    status: int | None = None


_CANCELLED = _Outcome(None, "cancelled by the caller", "CancelledError")


class ObservedGateway:
    """Calls the gateway at *base_url*, observed. Safe for any number of calls at once on one event loop."""

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
        parts = urlsplit(base_url)
        self._server: dict[str, str | int] = {
            keys.HTTP_REQUEST_METHOD: "POST",
            keys.SERVER_ADDRESS: parts.hostname or "",
            keys.SERVER_PORT: parts.port or (443 if parts.scheme == "https" else 80),
        }

    async def observed(self, endpoint: str, body: Any, description: str, **fields: Any) -> tuple[Any, ObservedOp]:
        """POST *body* as JSON to *endpoint* (a path); give the decoded answer and the op.

        Status and `error` in the answer both decide success; a call that got no answer gives `{"error": message}`.
        *fields* are further fields of the op (`task`, `staffer_id`, `role`…). Raises TypeError or ValueError if
        *body* is not JSON or a field is none of an op's: that is the caller's fault, and nothing was sent.
        """
        _check(endpoint, description, fields)
        content = json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        # The slash keeps an endpoint such as `@elsewhere/` from becoming part of the address.
        url = self._base_url + (endpoint if endpoint.startswith("/") else f"/{endpoint}")
        started_ns, started = self._clock.time_ns(), self._clock.monotonic()
        within = get_current_span().get_span_context()
        call = self._spans.begin(self._normalizer.text(endpoint), within if within.is_valid else None)
        outcome = _CANCELLED
        try:
            outcome = await self._call(url, content, call.context)
        finally:  # a cancelled call ends as an op too
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
            async with asyncio.timeout(self._timeout_s):  # httpx's own begins anew with every byte that arrives
                response = await self._client.post(url, content=content, headers=headers, timeout=None)
            return _outcome(response)
        except TimeoutError:
            message = f"no answer within {self._timeout_s:g} s"
            return _Outcome({"error": message}, message, TimeoutError.__name__)
        except Exception as exc:  # noqa: BLE001 - whatever the gateway or the way to it does is the op's outcome
            message = str(exc) or type(exc).__name__
            return _Outcome({"error": message}, message, type(exc).__name__)


def _check(endpoint: str, description: str, fields: Mapping[str, Any]) -> None:
    """What cannot become an op is the caller's mistake, found before anything is sent. Raises TypeError."""
    for name in fields.keys() - _GIVEN:
        raise TypeError(f"{name!r} is not a field that the caller of a gateway gives")
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
