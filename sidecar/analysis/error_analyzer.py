"""Diagnoses incidents: once a cycle, those that are due are explained by a model or by counting.

Incidents come from `IncidentBook`; `RuleBook` explains failures that no single value sets apart. A diagnosis is written
to the decision journal first, with a span that links to its evidence. Once written it takes effect: `marked` marks the
incidents, `tell` queues a post for the gateway's log. A replay only marks.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import structlog
from opentelemetry.trace import Tracer

from sidecar.analysis.diagnosis_text import counted_diagnosis, failure_samples
from sidecar.analysis.evidence import MAX_LINKS, links_to
from sidecar.analysis.findings import (
    STATISTICS,
    Sample,
    advised_finding,
    counted_finding,
    finding_text,
    is_json,
    is_outdated,
    model_findings,
    sees_nothing,
)
from sidecar.analysis.incident_rows import Mark
from sidecar.analysis.incidents import IncidentBook, is_explained
from sidecar.analysis.llm import FIX
from sidecar.analysis.model_questions import (
    MAX_FAILURES,
    OPENING,
    SENTENCE_TOKENS,
    build_prompt,
    diagnosis_form,
    simple_question,
)
from sidecar.analysis.rule_fit import RuleSaid, said_of
from sidecar.analysis.rules import RuleBook
from sidecar.clock import rfc3339_ms
from sidecar.errors import ModelError, ObserverError, UnusableAnswerError
from sidecar.model import Diagnosis, Finding, Incident, SpanRef
from sidecar.protocols import Clock, DecisionLog, TextModel
from sidecar.protocols_posts import PostSink
from sidecar.spans.attributes import DIAGNOSIS_BY, DIAGNOSIS_FAILURES, DIAGNOSIS_ID, DIAGNOSIS_TEXT

log = structlog.get_logger(__name__)

DECISION_KIND: Final = "diagnosis"
BY_MODEL: Final = "LLM-analyzed error patterns"
BY_COUNTING: Final = "counted error patterns, no model"
MAX_TEXT: Final = 4000  # characters
MAX_POSTED: Final = 500
MAX_ASKED_SIMPLY: Final = 3  # incidents a cycle, with one question each


class ErrorAnalyzer:
    """Diagnoses at most 10 incidents a cycle, with one prompt; *model* None means by counting only.

    If the answer is unusable, the model is asked a simpler question about each of the first three incidents.
    """

    def __init__(
        self,
        book: IncidentBook,
        model: TextModel | None,
        decisions: DecisionLog,
        *,
        rules: RuleBook,
        outbox: PostSink,
        tracer: Tracer,
        clock: Clock,
        model_name: str,
    ) -> None:
        self._book = book
        self._rules = rules
        self._model = model
        self._decisions = decisions
        self._tracer = tracer
        self._clock = clock
        self._model_name = model_name
        self._outbox = outbox
        self.diagnoses = 0
        self.without_model = 0  # diagnoses by counting because the model failed
        self.undecided = 0  # diagnoses that the decision journal did not accept

    async def analyze(self) -> None:
        """Diagnose the incidents that are due. If the journal fails, all stay due."""
        incidents = await self._due()
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
        """Queue the post of a journalled diagnosis for the gateway's log. Raises msgspec.MsgspecError."""
        diagnosis = msgspec.json.decode(decision_body, type=Diagnosis)
        try:
            self._outbox.put_again(DECISION_KIND, _entry(diagnosis), diagnosis.at)
        except Exception:  # one bad post must not stop the others
            log.exception("diagnosis.not_told", diagnosis_id=diagnosis.diagnosis_id)

    async def _due(self) -> list[Incident]:
        """At most 10 incidents: first those due by their counts, then those that a newer rule explains better."""
        due = self._book.due()[:MAX_FAILURES]
        known = {each.fingerprint for each in due}
        for each in self._book.incidents():
            if len(due) == MAX_FAILURES:
                break
            finding = each.finding
            if finding is None or each.fingerprint in known or not is_explained(each) or not sees_nothing(finding):
                continue
            rule = self._rule(each)
            if rule is not None and is_outdated(finding, rule):
                due.append(each)
            await asyncio.sleep(0)
        return due

    def _rule(self, incident: Incident) -> RuleSaid | None:
        row = self._book.row(incident.fingerprint)
        rules = [rule for rule in self._rules.rules(incident.endpoint) if rule.is_shown]
        return said_of(row.counts, rules) if row is not None else None

    async def _diagnose(self, incidents: Sequence[Incident]) -> Diagnosis:
        samples = failure_samples(incidents)
        counts = {incident.fingerprint: incident.count for incident in incidents}  # they may grow meanwhile
        versions = {incident.fingerprint: incident.diagnosis_version + 1 for incident in incidents}
        evidence = _evidence(incidents)
        failures = sum(counts.values())
        with self._tracer.start_as_current_span(
            "observer.diagnosis", links=links_to(evidence), attributes={DIAGNOSIS_FAILURES: failures}
        ) as span:
            said = await self._explain(incidents, samples)
            diagnosis = Diagnosis(
                diagnosis_id=_diagnosis_id(counts, versions),
                at=rfc3339_ms(self._clock.time_ns()),
                by=said.by,
                text=said.text[:MAX_TEXT],
                failures=failures,
                incidents=counts,
                context="\n".join(sample.line for sample in samples)[:MAX_POSTED],
                evidence=evidence,
                findings=said.findings,
                versions=versions,
                texts=said.texts,
            )
            span.set_attribute(DIAGNOSIS_ID, diagnosis.diagnosis_id)
            span.set_attribute(DIAGNOSIS_BY, diagnosis.by)
            span.set_attribute(DIAGNOSIS_TEXT, diagnosis.text)
            await self._decisions.decide(DECISION_KIND, diagnosis, self._book.last_op_id)
        return diagnosis

    async def _explain(self, incidents: Sequence[Incident], samples: Sequence[Sample]) -> _Explanation:
        """The explanation of *incidents*: the model's if usable, else the one by counting."""
        together = [(each, self._book.common(each), self._rule(each)) for each in incidents]
        findings = {each.fingerprint: counted_finding(each, common, rule) for each, common, rule in together}
        texts = {each.fingerprint: counted_diagnosis(each, common, rule) for each, common, rule in together}
        counted = _Explanation(STATISTICS, "\n".join(texts.values()), findings, texts)
        if self._model is None:
            return counted
        try:
            return await self._ask_model(self._model, incidents, samples, counted)
        except ObserverError as exc:
            log.warning("diagnosis.without_model", error=str(exc))
        except Exception:  # a fault in the model's client must not prevent the diagnosis
            log.exception("diagnosis.model_failed", failures=self.without_model + 1)
        self.without_model += 1
        return counted

    async def _ask_model(
        self, model: TextModel, incidents: Sequence[Incident], samples: Sequence[Sample], counted: _Explanation
    ) -> _Explanation:
        """What *model* says of all incidents together, or else of some one by one. Raises ObserverError if unusable."""
        lines = [each.line for each in samples]
        try:
            answer = await model.generate(build_prompt(lines), diagnosis_form(lines, len(incidents)))
            return self._read_answer(answer, incidents, samples, counted)
        except UnusableAnswerError as exc:
            log.info("diagnosis.asked_simply", why=exc.args[1])
            found = await self._ask_simply(model, incidents, samples, counted)
            if not found:
                raise
        return self._joined_findings(incidents, {**counted.findings, **found})

    async def _ask_simply(
        self, model: TextModel, incidents: Sequence[Incident], samples: Sequence[Sample], counted: _Explanation
    ) -> dict[str, Finding]:
        newest = {sample.fingerprint: sample for sample in samples}
        asked = [newest[each.fingerprint] for each in incidents if each.fingerprint in newest]
        found = dict[str, Finding]()
        for sample in asked[:MAX_ASKED_SIMPLY]:
            key = sample.fingerprint
            try:
                answer = await model.generate(simple_question(sample.line), max_tokens=SENTENCE_TOKENS)
            except UnusableAnswerError:
                continue
            except ModelError:  # a time-out, or the circuit is open
                break
            if finding := advised_finding(answer, sample, counted.findings[key], self._model_name):
                found[key] = finding
        return found

    def _joined_findings(self, incidents: Sequence[Incident], findings: dict[str, Finding]) -> _Explanation:
        texts = {each.fingerprint: finding_text(each, findings[each.fingerprint]) for each in incidents}
        return _Explanation(self._model_name, "\n".join(texts.values()), findings, texts)

    def _read_answer(
        self, answer: str, incidents: Sequence[Incident], samples: Sequence[Sample], counted: _Explanation
    ) -> _Explanation:
        """Read *answer* as JSON, or as prose, which is kept whole. Raises UnusableAnswerError if it is neither."""
        found = model_findings(answer, samples, counted.findings, self._model_name)
        if found:
            return self._joined_findings(incidents, {**counted.findings, **found})
        if is_json(answer):
            raise UnusableAnswerError("the model's answer is unusable", "nothing in its JSON can be used", FIX)
        if OPENING in answer:
            raise UnusableAnswerError("the model's answer is unusable", "it repeats the question", FIX)
        return _Explanation(self._model_name, answer, counted.findings, {})


class _Explanation(NamedTuple):
    by: str
    text: str
    findings: dict[str, Finding]
    texts: dict[str, str]


def marked(book: IncidentBook, decision_body: bytes | msgspec.Raw) -> Diagnosis:
    """The diagnosis in *decision_body* (JSON), after marking its incidents in *book*. Raises msgspec.MsgspecError."""
    diagnosis = msgspec.json.decode(decision_body, type=Diagnosis)
    for fingerprint, count in diagnosis.incidents.items():
        finding, version = diagnosis.findings.get(fingerprint), diagnosis.versions.get(fingerprint, 1)
        text = diagnosis.texts.get(fingerprint, diagnosis.text)
        mark = Mark(count, version, diagnosis.at, diagnosis.diagnosis_id, diagnosis.by, text, finding)
        book.mark(fingerprint, mark)
    return diagnosis


def _evidence(incidents: Sequence[Incident]) -> list[SpanRef]:
    return list(dict.fromkeys(ref for incident in incidents for ref in incident.evidence))[:MAX_LINKS]


def _diagnosis_id(counts: dict[str, int], versions: dict[str, int]) -> str:
    """An id derived from content: equal counts and versions give the same id, so a renewed diagnosis gets a new one."""
    content = msgspec.json.encode([counts, versions], order="sorted")
    return "dg-" + hashlib.sha256(content).hexdigest()[:12]


def _entry(diagnosis: Diagnosis) -> dict[str, str]:
    return {
        "operation": f"error_analysis: {diagnosis.failures} failures",
        "approach": BY_COUNTING if diagnosis.by == STATISTICS else BY_MODEL,
        "result": diagnosis.text[:MAX_POSTED],
        "context": diagnosis.context[:MAX_POSTED],
    }
