"""Builds the main door and the health door, with their routes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar.analysis.incident_details import incident_details
from sidecar.analysis.playbook_consolidator import playbook_id
from sidecar.model_learning import EntryAction
from sidecar.pipeline.metrics import losses
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

if TYPE_CHECKING:
    from sidecar.pipeline.observer import Observer
    from sidecar.settings import Settings

_HEALTH_GRACE_S = 1.0


def http_receiver(observer: Observer, settings: Settings) -> HttpReceiver:
    """The main HTTP door."""
    return HttpReceiver(
        "http",
        create_app(http_routes(observer), observer.guard),
        host=settings.host,
        port=settings.port,
        setting="OBSERVER_PORT",
        request_timeout_s=settings.body_timeout,
        grace_s=settings.grace,
        tls=tls_context(settings.tls_cert, settings.tls_key),
    )


def health_receiver(observer: Observer, settings: Settings) -> HttpReceiver:
    """The health door, which needs no token."""
    return HttpReceiver(
        "health",
        create_app(health_routes(observer), None),
        host=settings.health_host,
        port=settings.health_port,
        setting="OBSERVER_HEALTH_PORT",
        request_timeout_s=settings.body_timeout,
        grace_s=_HEALTH_GRACE_S,
    )


def http_routes(observer: Observer) -> dict[str, object]:
    """Path → resource of the main door."""
    description = openapi(our_version())
    return {
        "/": StatusPage(),
        "/event": EventResource(observer.intake, BodyReader(observer.budget, max_bytes=MAX_EVENT_BYTES)),
        "/events": EventsResource(observer.intake, BodyReader(observer.budget, max_bytes=MAX_BATCH_BYTES)),
        "/health": HealthResource(observer.ring.__len__),
        "/livez": LivezResource(),
        "/readyz": ReadyzResource(lambda: observer.ready),
        "/stats": StatsResource(observer.ring, lambda: _more_stats(observer)),
        "/ops": OpsResource(observer.ring),
        "/ops/stream": OpsStreamResource(observer.feed),
        **_incident_routes(observer),
        **_learning_routes(observer),
        "/metrics": TextResource(observer.metrics.content_type, observer.metrics.render, "read"),
        "/openapi.json": TextResource("application/json", lambda: description, None),
        **observer.otlp.routes,
        **observer.langfuse.routes,
    }


def _incident_routes(observer: Observer) -> dict[str, object]:
    book = observer.books.incidents
    view = IncidentsView(book.incidents, partial(incident_details, book))
    bodies = BodyReader(observer.budget, max_bytes=MAX_BODY_BYTES)
    hand, clean = observer.life_cycle.by_hand, observer.normalizer.text
    return {
        "/corrections": CorrectionsResource(observer.books.corrections.reviews),
        "/webhook/test": WebhookTestResource(observer.webhook.test),
        "/incidents": IncidentsResource(view),
        "/incidents/{fingerprint}": IncidentResource(view),
        **{
            f"/incidents/{{fingerprint}}/{action}": IncidentHandResource(action, hand, bodies, clean)
            for action in ACTIONS
        },
    }


def _learning_routes(observer: Observer) -> dict[str, object]:
    playbook, advisor, clean = observer.learning, observer.learning.advisor, observer.normalizer.text
    bodies = BodyReader(observer.budget, max_bytes=MAX_BODY_BYTES)
    actions: tuple[EntryAction, ...] = ("approve", "retire", "restore")
    return {
        "/playbooks": PlaybooksResource(playbook, advisor, clean),
        "/playbooks/import": ImportResource(
            playbook, BodyReader(observer.budget, max_bytes=MAX_IMPORT_BYTES), playbook_id, clean
        ),
        "/playbooks/{playbook_id}": PlaybookResource(playbook, advisor, clean),
        **{
            f"/playbooks/{{playbook_id}}/{action}": EntryActionResource(playbook, bodies, action, clean)
            for action in actions
        },
        "/advice": AdviceResource(advisor, clean),
        "/advice/{exposure_id}/outcome": OutcomeResource(
            advisor, BodyReader(observer.budget, max_bytes=MAX_OUTCOME_BYTES)
        ),
    }


def health_routes(observer: Observer) -> dict[str, object]:
    """Path → resource of the health port: health and nothing else."""
    return {"/livez": LivezResource(), "/readyz": ReadyzResource(lambda: observer.ready), "/health": LivezResource()}


def _more_stats(observer: Observer) -> dict[str, Any]:
    return {
        "cycle": observer.cycle.cycles,
        "incidents": len(observer.books.incidents),
        "incidents_by_state": observer.books.incidents.by_state,
        "playbooks": len(observer.books.learning.playbook),
        "rules": observer.learning.rule_stats(),
        "advice": observer.learning.advice_stats(),
        "operations_in_all": observer.books.total.operations,
        "langfuse": observer.langfuse.stats(),
        "amendments": {
            "in_ring": observer.ring.amended_ops,
            "taken": observer.books.latest.amended,
            "of_unknown_ops": observer.books.latest.unknown,
            "repeated_ops": observer.books.latest.repeats,
        },
        "hints": observer.intake.hint_stats,
        "one_operation": {
            "absorbed": observer.op_processor.one.absorbed,
            "amended": observer.op_processor.one.amended,
            "forgotten": observer.op_processor.one.forgotten,
        },
        "lost": losses(observer),
    }
