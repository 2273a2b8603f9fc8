"""`GET /advice` and `POST /advice/{exposure_id}/outcome`: what to do or avoid now, and how it went."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError
from sidecar.protocols import AdviceSource
from sidecar.receivers.bodies import BodyReader, parse_json
from sidecar.receivers.op_filter import advice_query

MAX_OUTCOME_BYTES = 4096


class AdviceResource:
    """`GET /advice?endpoint=…&task=…&<feature>=…`."""

    scope = "advice"

    def __init__(self, advisor: AdviceSource, clean: Callable[[str], str]) -> None:
        self._advisor = advisor
        self._clean = clean

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"exposure_id", "advice": […]}` once the exposure is in the journal; 503 if that took too long."""
        advice = await self._advisor.advise(advice_query(req, self._clean))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(advice)
        resp.cache_control = ["no-store"]  # coins are drawn per task: no cache may share an answer


class OutcomeResource:
    """`POST /advice/{exposure_id}/outcome`: for agents whose operations do not pass through here."""

    scope = "advice"

    def __init__(self, advisor: AdviceSource, bodies: BodyReader) -> None:
        self._advisor = advisor
        self._bodies = bodies

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, exposure_id: str) -> None:
        """`{"success": true}`; 200 once it is in the journal."""
        with self._bodies.lease() as lease:
            success = _success(await self._bodies.read(req, lease))
        await self._advisor.report(exposure_id, success=success)
        resp.media = {"accepted": True}


def _success(body: bytes) -> bool:
    said = parse_json(body)
    success = said.get("success") if isinstance(said, dict) else None
    if not isinstance(success, bool):
        raise InvalidInputError(
            "success is not usable", "expected an object with true or false", 'Send {"success": true}'
        )
    unknown = next((name for name in said if name != "success"), None)
    if unknown is not None:
        raise InvalidInputError(f"{unknown[:80]!r} is not known here", "only `success` is", 'Send {"success": true}')
    return success
