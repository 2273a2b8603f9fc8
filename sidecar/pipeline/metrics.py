"""Connects the rooms' counters to metric names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from sidecar.analysis.cycle import CycleLoop
from sidecar.metrics import OwnMetrics
from sidecar.model import IncidentState
from sidecar.pipeline import langfuse, learning_metrics, otlp_doors, proxy
from sidecar.pipeline.analysis import Analysis
from sidecar.pipeline.books import Books
from sidecar.pipeline.parts import Parts
from sidecar.pipeline.spans import Spans
from sidecar.pipeline.stats import losses
from sidecar.pipeline.store import SOURCES
from sidecar.process_usage import cpu_seconds, resident_bytes
from sidecar.store.commit_log import CommitLog
from sidecar.store.retention import Retention


def register(parts: Parts, otlp: otlp_doors.OtlpDoors, langfuse_parts: langfuse.Langfuse, cycle: CycleLoop) -> None:
    """Register every counter of the observer with its metrics."""
    metrics = parts.spans.metrics
    _register_intake(parts, otlp)
    metrics.observe_count(
        "observer.lost", "{item}", "Items lost or refused, by cause", lambda: losses(parts, langfuse_parts), "cause"
    )
    _register_process(metrics)
    _register_journals(parts)
    _register_retention(metrics, parts.retention)
    _register_export(parts.spans)
    _register_cycle(metrics, cycle)
    _register_analysis(parts)
    _register_same(parts)
    proxy.register(metrics, parts.gateway.proxy)
    otlp_doors.register(metrics, otlp)
    langfuse.register(metrics, langfuse_parts)


def _by_state(books: Books) -> dict[str, int]:
    counts = books.incidents.by_state
    return {state: counts[state] for state in get_args(IncidentState)}


def _by_source(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by known source, all others summed up: senders choose sources, and must not create series."""
    known = {source: counts.get(source, 0) for source in SOURCES}
    return {**known, "other": sum(counts.values()) - sum(known.values())}


def _register_intake(parts: Parts, otlp: otlp_doors.OtlpDoors) -> None:
    count, level = parts.spans.metrics.observe_count, parts.spans.metrics.observe_level
    store, entrance = parts.store, parts.entrance
    intake, ring, budget = entrance.intake, store.ring, entrance.budget
    count("observer.events.accepted", "{event}", "Events acknowledged", lambda: intake.accepted)
    count("observer.events.duplicates", "{event}", "Repeated events, not recorded again", lambda: intake.repeats)
    count("observer.events.hinted", "{event}", "Events whose answer had hints", lambda: intake.hinted)
    count(
        "observer.events.not_compared",
        "{field}",
        "Unknown fields not compared with known ones",
        lambda: intake.hint_stats["fields_not_compared"],
    )
    level("observer.events.ids", "{id}", "Event ids remembered", lambda: len(store.books.duplicates))
    count(
        "observer.requests.refused",
        "{request}",
        "Requests refused, by reason",
        lambda: {
            "invalid": intake.invalid + otlp.invalid,
            "conflict": intake.conflicts,
            "forbidden": entrance.guard.refused + otlp.refused,
            "overload": budget.refused + otlp.overloads,
        },
        "reason",
    )
    level("observer.requests.inflight", "By", "Bytes of requests in flight", lambda: budget.used)
    level("observer.ring.ops", "{op}", "Operations in memory", lambda: len(ring))
    level("observer.ring.size", "By", "Approximate memory of the ring", lambda: ring.bytes)
    level("observer.ring.failures", "{op}", "Failures in memory", lambda: ring.failures)
    level(
        "observer.ring.by_source",
        "{op}",
        "Operations in memory",
        lambda: _by_source(ring.by_source),
        "source",
    )
    ops, by = store.op_counts, ("endpoint", "source", "outcome")
    first = "Operations recorded since the start, by their first known outcome; see observer_ops_corrected"
    count("observer.ops", "{op}", first, lambda: ops.ops, *by)
    now = "Operations whose outcome was corrected to this one; observer_ops has them under the other"
    count("observer.ops.corrected", "{op}", now, lambda: ops.corrected, *by)
    count("observer.ops.duration", "s", "Summed duration of operations, as first recorded", lambda: ops.seconds, *by)
    level("observer.watchers", "{watcher}", "Open live streams", lambda: store.feed.watchers)


def _register_process(metrics: OwnMetrics) -> None:
    metrics.observe_level("process.memory.usage", "By", "Resident memory", resident_bytes)
    metrics.observe_count("process.cpu.time", "s", "CPU time of all threads", cpu_seconds)


def _register_same(parts: Parts) -> None:
    count, level = parts.spans.metrics.observe_count, parts.spans.metrics.observe_level
    one, latest = parts.spans.op_processor.one, parts.store.books.latest
    count(
        "observer.same.ops",
        "{op}",
        "Reports of known operations: added nothing, or amended the previous op",
        lambda: {"absorbed": one.absorbed, "amended": one.amended},
        "outcome",
    )
    count("observer.same.forgotten", "{operation}", "Evicted before their window was over", lambda: one.forgotten)
    level("observer.same.remembered", "{operation}", "Operations of which another report may come", lambda: len(one))
    count("observer.amended", "{op}", "Ops replaced by later ones", lambda: latest.amended)
    count("observer.amended.unknown", "{op}", "Amended, but not remembered: counted twice", lambda: latest.unknown)
    count("observer.amended.too_many", "{op}", "Ops that amend more ids than are read", lambda: latest.too_many)
    count("observer.ops.repeated", "{op}", "Journal lines that repeat an op", lambda: latest.repeats)


def _register_journals(parts: Parts) -> None:
    count, level = parts.spans.metrics.observe_count, parts.spans.metrics.observe_level
    journals = parts.store.journals
    logs: dict[str, CommitLog[Any]] = {"ops": journals.ops, "decisions": journals.decisions}

    def of_each(read: Callable[[CommitLog[Any]], float]) -> Callable[[], dict[str, float]]:
        return lambda: {name: read(journal) for name, journal in logs.items()}

    by = "journal"
    count("observer.journal.records", "{record}", "Written", of_each(lambda journal: journal.committed), by)
    count("observer.journal.size", "By", "Written", of_each(lambda journal: journal.committed_bytes), by)
    count("observer.journal.commits", "{commit}", "Group commits", of_each(lambda journal: journal.commits), by)
    lag = "From a batch's first record to its write, summed over commits"
    count("observer.journal.commit.time", "s", lag, of_each(lambda journal: journal.commit_seconds), by)
    count(
        "observer.journal.errors",
        "{error}",
        "Writes and syncs that failed",
        of_each(lambda journal: journal.write_errors + journal.sync_errors),
        by,
    )
    waiting = of_each(lambda journal: journal.pending_bytes)
    level("observer.journal.pending", "By", "Bytes waiting to be written", waiting, by)
    count("observer.journal.damaged", "{record}", "Unreadable records", lambda: parts.analysis.checkpoint.damaged)


def _register_retention(metrics: OwnMetrics, retention: Retention) -> None:
    count, level, kept, by = metrics.observe_count, metrics.observe_level, retention.journals, "journal"
    level("observer.journal.kept", "By", "Bytes on disk", lambda: {each.name: each.bytes for each in kept}, by)
    level("observer.journal.segments", "{file}", "On disk", lambda: {each.name: each.segments for each in kept}, by)
    count(
        "observer.journal.dropped",
        "{file}",
        "Segments dropped by size or age; what they held stays counted",
        lambda: {each.name: each.dropped for each in kept},
        by,
    )
    count("observer.retention.failures", "{look}", "Bounds not enforced yet", lambda: retention.failures)


def _register_export(spans: Spans) -> None:
    count, level, export = spans.metrics.observe_count, spans.metrics.observe_level, spans.export
    if export is None:
        return
    door, ops, spool = export.door, spans.op_processor, export.spool
    count(
        "observer.export.accepted",
        "{span}",
        "Spans to be exported",
        lambda: {"journal": ops.accepted, "spool": door.accepted},
        "from",
    )
    count("observer.export.spans", "{span}", "Spans exported", lambda: export.exported)
    count("observer.export.failed", "{span}", "Spans lost for good, by cause", lambda: export.failed, "cause")
    count(
        "observer.export.evicted",
        "{span}",
        "Spans removed by a disk bound before export",
        lambda: {"journal": export.source.evicted, "spool": spool.evicted},
        "from",
    )
    count("observer.export.evicted.size", "By", "Bytes evicted from the spool", lambda: spool.evicted_bytes)
    count("observer.export.requests", "{request}", "Requests sent", lambda: sum(lane.requests for lane in export.lanes))
    count("observer.export.retries", "{request}", "Failed attempts", lambda: sum(lane.retries for lane in export.lanes))
    level("observer.export.waiting", "By", "Bytes on disk not exported yet", lambda: export.waiting_bytes, "from")
    level("observer.spool.size", "By", "Bytes of the spool on disk", lambda: spool.held_bytes)


def _register_cycle(metrics: OwnMetrics, cycle: CycleLoop) -> None:
    count, level = metrics.observe_count, metrics.observe_level
    count("observer.cycles", "{cycle}", "Cycles run", lambda: cycle.cycles)
    level("observer.cycle.duration", "s", "Duration of the last cycle", lambda: cycle.last_duration_ms / 1000)
    count(
        "observer.cycle.step.failures",
        "{step}",
        "Steps that failed or timed out",
        lambda: cycle.step_failures + cycle.step_timeouts + cycle.cycle_failures,
    )


def _register_analysis(parts: Parts) -> None:
    metrics, analysis, books = parts.spans.metrics, parts.analysis, parts.store.books
    count, level = metrics.observe_count, metrics.observe_level
    count(
        "observer.decisions.unwritten",
        "{decision}",
        "Decisions that the journal did not accept; they are made again",
        lambda: analysis.analyzer.undecided + analysis.consolidator.failed + analysis.learning.undecided,
    )
    advisor, learning = analysis.learning.advisor, books.learning
    count("observer.advice.asked", "{request}", "Requests for advice", lambda: advisor.asked)
    count("observer.advice.told", "{item}", "Entries told to agents", lambda: advisor.told)
    count(
        "observer.decisions.overtaken",
        "{decision}",
        "Decisions of a cycle made void by a person's decision",
        lambda: analysis.life_cycle.overtaken + learning.playbook.overtaken,
    )
    count("observer.advice.undecided", "{request}", "Not given: the journal took too long", lambda: advisor.undecided)
    level("observer.rules", "{rule}", "Rules known", lambda: len(learning.rules.report().rules))
    count("observer.state.save.failures", "{save}", "Failed saves, retried", lambda: analysis.checkpoint.failed_saves)
    count("observer.corrections", "{row}", "Corrections recorded", lambda: analysis.corrections.recorded)
    count("observer.corrections.read.errors", "{error}", "Reads that failed", lambda: analysis.corrections.read_errors)
    if analysis.model is not None:
        asked = analysis.model.asked
        count("observer.model.calls", "{call}", "Calls to the model", lambda: asked.calls)
        count("observer.model.failures", "{call}", "Calls without a usable answer", lambda: asked.failures)
    _register_posts(metrics, analysis)
    level("observer.incidents", "{incident}", "Incidents, by state", lambda: _by_state(books), "state")
    learning_metrics.register(metrics, learning)


def _register_posts(metrics: OwnMetrics, analysis: Analysis) -> None:
    count, level, outboxes = metrics.observe_count, metrics.observe_level, analysis.outboxes

    def total(name: str) -> Callable[[], int]:
        return lambda: sum(getattr(outbox, name) for outbox in outboxes)

    count("observer.posts.delivered", "{post}", "Posts delivered", total("delivered"))
    count("observer.posts.failed", "{attempt}", "Failed attempts to post", total("failed"))
    level("observer.posts.waiting", "{post}", "Posts waiting for delivery", total("waiting"))
    level("observer.posts.dead", "{post}", "Posts given up, kept as dead letters", total("dead"))
    oldest = "Age of the oldest waiting post"
    level("observer.posts.oldest", "s", oldest, lambda: max(outbox.oldest_s for outbox in outboxes))
