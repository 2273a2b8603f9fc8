"""The doors of the incidents. Part of the pipeline, apart only for length."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sidecar.analysis.incident_details import incident_details
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.incident_resources import (
    ACTIONS,
    MAX_BODY_BYTES,
    IncidentHandResource,
    IncidentResource,
    IncidentsResource,
    IncidentsView,
)

if TYPE_CHECKING:
    from sidecar.pipeline import Observer


def incident_routes(observer: Observer) -> dict[str, object]:
    """Path → resource."""
    book = observer.books.incidents
    view = IncidentsView(book.incidents, partial(incident_details, book))
    bodies = BodyReader(observer.budget, max_bytes=MAX_BODY_BYTES)
    hand, clean = observer.life_cycle.by_hand, observer.normalizer.text
    return {
        "/incidents": IncidentsResource(view),
        "/incidents/{fingerprint}": IncidentResource(view),
        **{
            f"/incidents/{{fingerprint}}/{action}": IncidentHandResource(action, hand, bodies, clean)
            for action in ACTIONS
        },
    }
