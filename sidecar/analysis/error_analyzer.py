"""Why things fail: once a cycle, the incidents that are due are diagnosed, by a model or by counting.

Incidents come from the book; a diagnosis goes to the decision journal first, with a span that links to its evidence.
What it does (marks in the book, by `marked`, and a post for the gateway's log, by `tell`) it does when it is in that
journal; a replay only marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from opentelemetry.trace import Tracer

from sidecar.analysis.diagnosis_text import MAX_FAILURES, build_prompt, counted_diagnosis, failure_lines
from sidecar.analysis.evidence import MAX_LINKS, links_to
from sidecar.analysis.incident_rows import Mark
from sidecar.analysis.incidents import IncidentBook
from sidecar.clock import rfc3339_ms
from sidecar.errors import ObserverError
from sidecar.model import Diagnosis, Incident, SpanRef
from sidecar.protocols import Clock, DecisionLog, PostSink, TextModel
from sidecar.spans.attributes import DIAGNOSIS_BY, DIAGNOSIS_FAILURES, DIAGNOSIS_ID, DIAGNOSIS_TEXT

log = structlog.get_logger(__name__)

DECISION_KIND: Final = "diagnosis"
STATISTICS: Final = "statistics"
BY_MODEL: Final = "LLM-analyzed error patterns"
BY_COUNTING: Final = "counted error patterns, no model"
MAX_TEXT: Final = 4000  # characters
MAX_POSTED: Final = 500


class ErrorAnalyzer:
    """Diagnoses at most 10 incidents a cycle, with one prompt; *model* None means by counting only."""

    def __init__(
        self,
        book: IncidentBook,
        model: TextModel | None,
        decisions: DecisionLog,
        *,
        outbox: PostSink,
        tracer: Tracer,
        clock: Clock,
        model_name: str,
    ) -> None:
        self._book = book
        self._model = model
        self._decisions = decisions
        self._tracer = tracer
        self._clock = clock
        self._model_name = model_name
        self._outbox = outbox
        self.diagnoses = 0
        self.without_model = 0  # diagnoses by counting although there is a model
        self.undecided = 0  # times the decision journal did not take a diagnosis

    async def analyze(self) -> None:
        """One cycle's work: diagnose what is due. A journal that fails leaves it all due."""
        incidents = self._book.due()[:MAX_FAILURES]
        if not incidents:
            return
        try:
            diagnosis = await self._diagnose(incidents)
        except ObserverError as exc:
            self.undecided += 1
            log.warning("diagnosis.not_written", error=str(exc))
            return
        self.diagnoses += 1
        log.info(
            "diagnosis.written",
            diagnosis_id=diagnosis.diagnosis_id,
            by=diagnosis.by,
            failures=diagnosis.failures,
            text=diagnosis.text,
        )

    def tell(self, decision_body: bytes | msgspec.Raw) -> None:
        """Have a diagnosis that is in the journal told to the gateway. Raises msgspec.MsgspecError."""
        diagnosis = msgspec.json.decode(decision_body, type=Diagnosis)
        try:
            self._outbox.put_again(DECISION_KIND, _entry(diagnosis), diagnosis.at)
        except Exception:  # a poison post costs itself
            log.exception("diagnosis.not_told", diagnosis_id=diagnosis.diagnosis_id)

    async def _diagnose(self, incidents: Sequence[Incident]) -> Diagnosis:
        lines = failure_lines(incidents)
        counts = {incident.fingerprint: incident.count for incident in incidents}  # they may grow while we wait
        evidence = _evidence(incidents)
        failures = sum(counts.values())
        with self._tracer.start_as_current_span(
            "observer.diagnosis", links=links_to(evidence), attributes={DIAGNOSIS_FAILURES: failures}
        ) as span:
            counted = counted_diagnosis([(incident, self._book.common(incident)) for incident in incidents])
            by, text = await self._explained(lines, counted)
            diagnosis = Diagnosis(
                diagnosis_id=_diagnosis_id(counts),
                at=rfc3339_ms(self._clock.time_ns()),
                by=by,
                text=text[:MAX_TEXT],
                failures=failures,
                incidents=counts,
                context="\n".join(lines)[:MAX_POSTED],
                evidence=evidence,
                versions={incident.fingerprint: incident.diagnosis_version + 1 for incident in incidents},
            )
            span.set_attribute(DIAGNOSIS_ID, diagnosis.diagnosis_id)
            span.set_attribute(DIAGNOSIS_BY, diagnosis.by)
            span.set_attribute(DIAGNOSIS_TEXT, diagnosis.text)
            await self._decisions.decide(DECISION_KIND, diagnosis, self._book.last_op_id)
        return diagnosis

    async def _explained(self, lines: Sequence[str], counted: str) -> tuple[str, str]:
        """(by whom, text): the model's words, or *counted* where it has none."""
        if self._model is None:
            return STATISTICS, counted
        try:
            return self._model_name, await self._model.generate(build_prompt(lines))
        except ObserverError as exc:
            log.warning("diagnosis.without_model", error=str(exc))
        except Exception:  # a fault of the model's client costs its words, not the diagnosis
            log.exception("diagnosis.model_failed", failures=self.without_model + 1)
        self.without_model += 1
        return STATISTICS, counted


def marked(book: IncidentBook, decision_body: bytes | msgspec.Raw) -> Diagnosis:
    """The diagnosis in *decision_body* (JSON), its incidents marked in *book*. Raises msgspec.MsgspecError."""
    diagnosis = msgspec.json.decode(decision_body, type=Diagnosis)
    for fingerprint, count in diagnosis.incidents.items():
        finding, version = diagnosis.findings.get(fingerprint), diagnosis.versions.get(fingerprint, 1)
        mark = Mark(count, version, diagnosis.at, diagnosis.diagnosis_id, diagnosis.by, diagnosis.text, finding)
        book.mark(fingerprint, mark)
    return diagnosis


def _evidence(incidents: Sequence[Incident]) -> list[SpanRef]:
    return list(dict.fromkeys(ref for incident in incidents for ref in incident.evidence))[:MAX_LINKS]


def _diagnosis_id(counts: dict[str, int]) -> str:
    content = msgspec.json.encode(counts, order="sorted")
    return "dg-" + hashlib.sha256(content).hexdigest()[:12]


def _entry(diagnosis: Diagnosis) -> dict[str, str]:
    return {
        "operation": f"error_analysis: {diagnosis.failures} failures",
        "approach": BY_COUNTING if diagnosis.by == STATISTICS else BY_MODEL,
        "result": diagnosis.text[:MAX_POSTED],
        "context": diagnosis.context[:MAX_POSTED],
    }
