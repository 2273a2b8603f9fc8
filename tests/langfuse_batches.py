"""Builds the batches that Langfuse's older SDKs send to `/api/public/ingestion`."""

from __future__ import annotations

import itertools
from typing import Any

import httpx

INGESTION = "/api/public/ingestion"
SCORES = "/api/public/scores"
TRACE = "0123456789abcdef0123456789abcdef"
_numbers = itertools.count(1)


def at(seconds: float) -> str:
    """A moment of one minute."""
    return f"2026-01-31T08:15:{seconds:06.3f}Z"


def event(kind: str, seconds: float = 0.0, **body: Any) -> dict[str, Any]:
    """One event of a batch."""
    return {"id": f"event-{next(_numbers)}", "type": kind, "timestamp": at(seconds), "body": body}


def begun(observation: str, kind: str = "span", seconds: float = 0.0, **body: Any) -> dict[str, Any]:
    """An event that begins an observation."""
    return event(f"{kind}-create", seconds, id=observation, traceId=TRACE, startTime=at(seconds), **body)


def ended(observation: str, kind: str = "span", seconds: float = 1.0, **body: Any) -> dict[str, Any]:
    """The event that ends the observation."""
    return event(f"{kind}-update", seconds, id=observation, traceId=TRACE, endTime=at(seconds), **body)


def whole(observation: str, kind: str = "span", **body: Any) -> list[dict[str, Any]]:
    """An observation of one second."""
    return [begun(observation, kind, **body), ended(observation, kind)]


def score(**body: Any) -> dict[str, Any]:
    """A score of the trace, or of what *body* names."""
    return event("score-create", **{"traceId": TRACE, **body})


async def post(http: httpx.AsyncClient, *events: dict[str, Any]) -> dict[str, Any]:
    """Send a batch; return the body of its 207 response."""
    answer = await http.post(INGESTION, json={"batch": list(events), "metadata": {"sdk_name": "python"}})
    assert answer.status_code == 207, answer.text
    said: dict[str, Any] = answer.json()
    return said


async def taken(http: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    """Send a batch of which every event must be accepted."""
    said = await post(http, *events)
    assert said == {"successes": [{"id": each["id"], "status": 201} for each in events], "errors": []}
