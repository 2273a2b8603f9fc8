"""`/incidents`: the list by state, one incident in full, a person's decision on it; and the webhook's test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Protocol, get_args

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError
from sidecar.model import Incident, IncidentState
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.hand_body import SOMEONE, said_by_hand
from sidecar.receivers.op_filter import page_query
from sidecar.receivers.read_resources import page_of

STATES: Final = get_args(IncidentState)
ACTIONS: Final[dict[str, IncidentState]] = {"resolve": "resolved", "ignore": "ignored", "reopen": "ongoing"}


class IncidentsView(NamedTuple):
    """What the doors need from the incident book. *details* returns all fields of one incident by name."""

    incidents: Callable[[], list[Incident]]
    details: Callable[[str], dict[str, Any] | None]


class Hand(Protocol):
    """Records a person's decision. Implementation: `LifeCycle.by_hand`."""

    async def __call__(self, fingerprint: str, state: IncidentState, by: str, note: str | None) -> Incident | None:
        """The incident after the decision; None if it is unknown. Raises JournalError."""
        ...


class IncidentsResource:
    """`GET /incidents`: most recent first, in pages; `state` selects, several comma-separated."""

    scope = "read"

    def __init__(self, view: IncidentsView) -> None:
        self._view = view

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"incidents": […], "next_cursor"}`; the last page has no cursor."""
        limit, cursor = page_query(req, "state")
        states = _states(req.get_param("state"))
        items = [each for each in self._view.incidents() if states is None or each.state in states]
        resp.content_type = falcon.MEDIA_JSON
        resp.data = page_of("incidents", items, "fingerprint", limit, cursor)


class IncidentResource:
    """`GET /incidents/{fingerprint}`: one incident in full, also by a former fingerprint of it."""

    scope = "read"

    def __init__(self, view: IncidentsView) -> None:
        self._view = view

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, fingerprint: str) -> None:
        """The incident, with `timeline`, `history`, `common` and `trace_ids`."""
        details = self._view.details(fingerprint)
        if details is None:
            raise _unknown(fingerprint)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(details)


class IncidentHandResource:
    """`POST /incidents/{fingerprint}/{action}`: a person's decision; `{"by", "note"}` may say who and why."""

    scope = "admin"

    def __init__(self, action: str, hand: Hand, bodies: BodyReader, clean: Callable[[str], str]) -> None:
        self._state = ACTIONS[action]
        self._hand = hand
        self._bodies = bodies
        self._clean = clean

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, fingerprint: str) -> None:
        """The changed incident, once the decision is in the journal."""
        with self._bodies.lease() as lease:
            said = said_by_hand(await self._bodies.read(req, lease))
        by, note = self._clean(said.by), self._clean(said.note)
        incident = await self._hand(fingerprint, self._state, by or SOMEONE, note or None)
        if incident is None:
            raise _unknown(fingerprint)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(incident)


class CorrectionsResource:
    """`GET /corrections`: corrections and what followed them, by task class and sig_hash, in pages."""

    scope = "read"

    def __init__(self, reviews: Callable[[], list[dict[str, Any]]]) -> None:
        self._reviews = reviews

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"corrections": […], "next_cursor"}`; the last page has no cursor."""
        limit, cursor = page_query(req)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = page_of("corrections", self._reviews(), "kind", limit, cursor)


class WebhookTestResource:
    """`POST /webhook/test`: sends a test post the same way as incidents."""

    scope = "admin"

    def __init__(self, test: Callable[[], Awaitable[bool]]) -> None:
        self._test = test

    async def on_post(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"queued": true}`; 404 if no webhook is set."""
        if not await self._test():
            raise falcon.HTTPNotFound(description="no webhook is set; see OBSERVER_WEBHOOK_URL")
        resp.content_type = falcon.MEDIA_JSON
        resp.data = b'{"queued":true}'


def _states(wanted: str | None) -> frozenset[str] | None:
    if wanted is None:
        return None
    states = frozenset(wanted.split(","))
    for state in sorted(states):
        if state not in STATES:
            raise InvalidInputError(
                f"state={state[:80]!r} is not usable", f"expected {', '.join(STATES)}", "See /openapi.json"
            )
    return states


def _unknown(fingerprint: str) -> falcon.HTTPNotFound:
    return falcon.HTTPNotFound(description=f"incident {fingerprint[:80]!r} is not known; see /incidents")
