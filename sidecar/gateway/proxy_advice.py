"""Advice for proxied calls in the header `X-Observer-Advice` of the request to the gateway or of the response.

It is looked up when a call begins, by path, headers and, if it is small, body. If the lookup fails or takes too long,
the call goes on without advice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from sidecar.errors import ObserverError
from sidecar.gateway.proxied_call import ProxiedCall
from sidecar.model import Scalar
from sidecar.model_learning import Advice, AdviceQuery
from sidecar.protocols import AdviceSource

log = structlog.get_logger(__name__)

ADVICE_HEADER: Final = b"X-Observer-Advice"
MOST_BYTES: Final = 2048  # of the header value
MOST_BODY: Final = 16 * 1024  # bytes; a larger body is not waited for
_ITEMS = 3


class Asked(NamedTuple):
    """What is known of a call from its request."""

    endpoint: str
    facts: dict[str, Scalar]
    task: str | None


class ProxyAdvice:
    """Gets advice from *source*. *asked* reads a call's request; *within_s* bounds the whole lookup, in seconds."""

    def __init__(
        self,
        source: AdviceSource,
        asked: Callable[[ProxiedCall], Asked],
        *,
        to_gateway: bool,
        to_agent: bool,
        within_s: float,
    ) -> None:
        self._source = source
        self._asked = asked
        self.to_gateway = to_gateway
        self.to_agent = to_agent
        self.within_s = within_s
        self.late = 0  # calls without advice because the journal or their body took too long
        self.failures = 0

    async def line(self, call: ProxiedCall, whole: asyncio.Event) -> bytes:
        """The header line with advice for *call*, b"" if there is none. *whole* is set once the request is complete."""
        try:
            async with asyncio.timeout(self.within_s):
                if _is_small(call):
                    await whole.wait()
                advice = await self._source.advise(self._query(call))
        except (ObserverError, TimeoutError):
            self.late += 1
            return b""
        except Exception:  # the call goes on without advice
            self.failures += 1
            log.exception("proxy.no_advice", template=call.template)
            return b""
        line = compact(advice)
        if advice.exposure_id is None or line is None:
            return b""
        if self.to_gateway:
            call.exposure_id = advice.exposure_id  # the advice is for this very call
        return b"%b: %b" % (ADVICE_HEADER, line)

    def _query(self, call: ProxiedCall) -> AdviceQuery:
        asked = self._asked(call)
        context = call.span.context if call.span is not None and not self.to_gateway else None
        return AdviceQuery(
            endpoint=asked.endpoint,
            facts=asked.facts,
            task=asked.task,
            limit=_ITEMS,
            door="proxy",
            during=f"{context.span_id:016x}" if context is not None else None,
            carries=lambda advice: compact(advice) is not None,
        )


class AskedAdvice:
    """The look-up for one *call*, which runs beside it."""

    def __init__(self, advice: ProxyAdvice, call: ProxiedCall, loop: asyncio.AbstractEventLoop) -> None:
        self.to_gateway = advice.to_gateway
        self.to_agent = advice.to_agent
        self._whole = asyncio.Event()
        self._task = loop.create_task(advice.line(call, self._whole))

    def request_over(self) -> None:
        """The request is complete, or the rest of it will not come."""
        self._whole.set()

    def when_over(self, do: Callable[[], None]) -> None:
        """Call *do* once advice is known, or it is known that there is none."""
        self._task.add_done_callback(lambda _task: do())

    def lines(self) -> list[bytes]:
        """The header line with advice, if it is known by now."""
        line = self._task.result() if self._task.done() and not self._task.cancelled() else b""
        return [line] if line else []


def compact(advice: Advice) -> bytes | None:
    """*advice* as ASCII JSON; a single item that is too long loses its text. None if it still exceeds `MOST_BYTES`."""
    items: list[dict[str, Any]] = [
        {
            "id": item.id,
            "kind": item.kind,
            "text": item.text,
            "when": msgspec.to_builtins(item.when),
            "set": msgspec.to_builtins(item.set),
            "evidence": item.evidence,
            "effect": round(item.effect, 3) if item.effect is not None else None,
        }
        for item in advice.advice
    ]
    text = _json(advice, items)
    if len(text) > MOST_BYTES and len(items) == 1:
        del items[0]["text"]
        text = _json(advice, items)
    return text if len(text) <= MOST_BYTES else None


def _json(advice: Advice, items: list[dict[str, Any]]) -> bytes:
    return json.dumps({"exposure_id": advice.exposure_id, "advice": items}, separators=(",", ":")).encode()


def _is_small(call: ProxiedCall) -> bool:
    head = call.request
    return not head.chunked and not head.expects and 0 < (head.length or 0) <= MOST_BODY
