"""Builds the main door and the health door, with their routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sidecar.analysis.incident_details import incident_details
from sidecar.analysis.playbook_consolidator import playbook_id
from sidecar.model_learning import EntryAction
from sidecar.pipeline.parts import Parts
from sidecar.receivers.advice_resource import MAX_OUTCOME_BYTES, AdviceResource, OutcomeResource
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.event_resource import MAX_BATCH_BYTES, MAX_EVENT_BYTES, EventResource, EventsResource
from sidecar.receivers.hand_body import MAX_BODY_BYTES
from sidecar.receivers.health_resource import HealthResource, LivezResource, ReadyzResource
from sidecar.receivers.http_app import create_app
from sidecar.receivers.http_receiver import HttpReceiver, tls_context
from sidecar.receivers.incident_resources import (
    ACTIONS,
    CorrectionsResource,
    IncidentHandResource,
    IncidentResource,
    IncidentsResource,
    IncidentsView,
    WebhookTestResource,
)
from sidecar.receivers.openapi import openapi
from sidecar.receivers.playbook_import import MAX_IMPORT_BYTES, ImportResource
from sidecar.receivers.playbook_resource import (
    EntryActionResource,
    PlaybookResource,
    PlaybooksResource,
)
from sidecar.receivers.read_resources import (
    OpsResource,
    OpsStreamResource,
    StatsResource,
    TextResource,
)
from sidecar.version import our_version
from sidecar.web.status_page import StatusPage

_HEALTH_GRACE_S = 1.0


class Doors:
    """The main door, `http`, with its `routes`, and the `health` door, which needs no token.

    *more* are routes that other parts serve through the main door. *unready* says why the observer is not ready, "" if
    it is; *stats* what `/stats` says beside the ring's counts.
    """

    def __init__(
        self,
        parts: Parts,
        more: Mapping[str, object],
        *,
        unready: Callable[[], str],
        stats: Callable[[], dict[str, Any]],
    ) -> None:
        settings = parts.settings
        self.routes = {**_own_routes(parts, unready, stats), **more}
        self.http = HttpReceiver(
            "http",
            create_app(self.routes, parts.entrance.guard),
            host=settings.host,
            port=settings.port,
            setting="OBSERVER_PORT",
            request_timeout_s=settings.body_timeout,
            grace_s=settings.grace,
            tls=tls_context(settings.tls_cert, settings.tls_key),
        )
        self.health = HttpReceiver(
            "health",
            create_app(_health_routes(unready), None),
            host=settings.health_host,
            port=settings.health_port,
            setting="OBSERVER_HEALTH_PORT",
            request_timeout_s=settings.body_timeout,
            grace_s=_HEALTH_GRACE_S,
        )


def _own_routes(parts: Parts, unready: Callable[[], str], stats: Callable[[], dict[str, Any]]) -> dict[str, object]:
    """Path → resource of the main door."""
    description = openapi(our_version())
    intake, budget, store = parts.entrance.intake, parts.entrance.budget, parts.store
    metrics = parts.spans.metrics
    return {
        "/": StatusPage(),
        "/event": EventResource(intake, BodyReader(budget, max_bytes=MAX_EVENT_BYTES)),
        "/events": EventsResource(intake, BodyReader(budget, max_bytes=MAX_BATCH_BYTES), parts.entrance.open_ops),
        "/health": HealthResource(store.ring.__len__),
        "/livez": LivezResource(),
        "/readyz": ReadyzResource(unready),
        "/stats": StatsResource(store.ring, stats),
        "/ops": OpsResource(store.ring),
        "/ops/stream": OpsStreamResource(store.feed),
        **_incident_routes(parts),
        **_learning_routes(parts),
        "/metrics": TextResource(metrics.content_type, metrics.render, "read"),
        "/openapi.json": TextResource("application/json", lambda: description, None),
    }


def _incident_routes(parts: Parts) -> dict[str, object]:
    book, analysis = parts.store.books.incidents, parts.analysis
    view = IncidentsView(book.incidents, partial(incident_details, book))
    bodies = BodyReader(parts.entrance.budget, max_bytes=MAX_BODY_BYTES)
    hand, clean = analysis.life_cycle.by_hand, parts.normalizer.text
    return {
        "/corrections": CorrectionsResource(parts.store.books.corrections.reviews),
        "/webhook/test": WebhookTestResource(analysis.webhook.test),
        "/incidents": IncidentsResource(view),
        "/incidents/{fingerprint}": IncidentResource(view),
        **{
            f"/incidents/{{fingerprint}}/{action}": IncidentHandResource(action, hand, bodies, clean)
            for action in ACTIONS
        },
    }


def _learning_routes(parts: Parts) -> dict[str, object]:
    playbook, clean = parts.analysis.learning, parts.normalizer.text
    advisor = playbook.advisor
    bodies = BodyReader(parts.entrance.budget, max_bytes=MAX_BODY_BYTES)
    actions: tuple[EntryAction, ...] = ("approve", "retire", "restore")
    return {
        "/playbooks": PlaybooksResource(playbook, advisor, clean),
        "/playbooks/import": ImportResource(
            playbook, BodyReader(parts.entrance.budget, max_bytes=MAX_IMPORT_BYTES), playbook_id, clean
        ),
        "/playbooks/{playbook_id}": PlaybookResource(playbook, advisor, clean),
        **{
            f"/playbooks/{{playbook_id}}/{action}": EntryActionResource(playbook, bodies, action, clean)
            for action in actions
        },
        "/advice": AdviceResource(advisor, clean),
        "/advice/{exposure_id}/outcome": OutcomeResource(
            advisor, BodyReader(parts.entrance.budget, max_bytes=MAX_OUTCOME_BYTES)
        ),
    }


def _health_routes(unready: Callable[[], str]) -> dict[str, object]:
    """Path → resource of the health port: health and nothing else."""
    return {"/livez": LivezResource(), "/readyz": ReadyzResource(unready), "/health": LivezResource()}
