"""Connects the rooms' counters to metric names."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from sidecar.model import IncidentState
from sidecar.pipeline import langfuse, learning_metrics, otlp_doors, proxy
from sidecar.pipeline.store import SOURCES
from sidecar.process_usage import cpu_seconds, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sidecar.export.outbox import Outbox
    from sidecar.pipeline.observer import Observer
    from sidecar.store.commit_log import CommitLog


def register(observer: Observer) -> None:
    """Register every counter of *observer* with its metrics."""
    _register_intake(observer)
    _register_journals(observer)
    _register_export(observer)
    _register_analysis(observer)
    _register_same(observer)
    proxy.register(observer)
    otlp_doors.register(observer)
    langfuse.register(observer)


def _by_state(observer: Observer) -> dict[str, int]:
    counts = observer.books.incidents.by_state
    return {state: counts[state] for state in get_args(IncidentState)}


def _by_source(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by known source, all others summed up: senders choose sources, and must not create series."""
    known = {source: counts.get(source, 0) for source in SOURCES}
    return {**known, "other": sum(counts.values()) - sum(known.values())}


def losses(observer: Observer) -> dict[str, int]:
    """Counts of lost or refused items by cause; each means a bound that was reached, or a fault that was survived."""
    export = observer.export
    return {
        "journal_full": observer.ops_log.refused,
        "journal_unwritten": observer.ops_log.unwritten,
        "span_unreadable": observer.op_processor.lost,
        "op_not_matched": observer.op_processor.unmatched,
        "consumer_failed": observer.settled.failures + observer.ops_log.downstream_errors,
        "watcher_slow": observer.feed.missed,
        "journal_damaged": observer.checkpoint.damaged,
        "decision_not_applied": observer.books.decided.failures + observer.books.in_order.failures,
        "export_evicted": export.evicted if export is not None else 0,
        "export_failed": sum(export.failed.values()) if export is not None else 0,
        "export_unreadable": export.source.unreadable if export is not None else 0,
        "span_not_encoded": (export.processor.lost if export is not None else 0) + observer.op_processor.unnoted,
        "spool_full": export.door.refused if export is not None else 0,
        "spool_damaged": export.spool.damaged if export is not None else 0,
        "post_lost": sum(outbox.lost for outbox in _outboxes(observer)),
        "proxied_call": observer.proxy.recorder.lost if observer.proxy is not None else 0,
        "langfuse_score_unread": observer.langfuse.desk.unjudged,
        "langfuse_item_not_recorded": observer.langfuse.desk.unrecorded,
        "langfuse_not_forwarded": observer.langfuse.not_forwarded,
        "correction_rejected": observer.corrections.rejected,
        "saved_row_unusable": sum(book.unusable for book in observer.books.saved.values()),
        "op_not_analysed": observer.books.incidents.not_counted
        + observer.books.successes.not_counted
        + observer.books.learning.not_counted,
        "incident_evicted": observer.books.incidents.evicted,
        "correction_kind_evicted": observer.books.corrections.evicted,
        "template_evicted": observer.books.incidents.templates_evicted,
        "success_evicted": observer.books.successes.evicted,
        **_learning_losses(observer),
    }


def _learning_losses(observer: Observer) -> dict[str, int]:
    learning = observer.books.learning
    return {
        "rule_endpoint_evicted": learning.rules.evicted,
        "playbook_evicted": learning.playbook.evicted,
        "exposure_evicted": learning.exposures.evicted,
        "learnt_out_of_order": observer.books.in_order.unordered,
    }


def _register_intake(observer: Observer) -> None:
    count, level = observer.metrics.observe_count, observer.metrics.observe_level
    intake, ring, budget = observer.intake, observer.ring, observer.budget
    count("observer.events.accepted", "{event}", "Events acknowledged", lambda: intake.accepted)
    count("observer.events.duplicates", "{event}", "Repeated events, not recorded again", lambda: intake.repeats)
    count("observer.events.hinted", "{event}", "Events whose answer had hints", lambda: intake.hinted)
    count(
        "observer.events.not_compared",
        "{field}",
        "Unknown fields not compared with known ones",
        lambda: intake.hint_stats["fields_not_compared"],
    )
    level("observer.events.ids", "{id}", "Event ids remembered", lambda: len(observer.books.duplicates))
    count(
        "observer.requests.refused",
        "{request}",
        "Requests refused, by reason",
        lambda: {
            "invalid": intake.invalid,
            "conflict": intake.conflicts,
            "forbidden": observer.guard.refused + observer.otlp.refused,
            "overload": budget.refused + observer.otlp.overloads,
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
    ops, by = observer.op_counts, ("endpoint", "source", "outcome")
    count("observer.ops", "{op}", "Operations recorded since the start", lambda: ops.ops, *by)
    count("observer.ops.duration", "s", "Summed duration of operations", lambda: ops.seconds, *by)
    count("observer.lost", "{item}", "Items lost or refused, by cause", lambda: losses(observer), "cause")
    level("process.memory.usage", "By", "Resident memory", resident_bytes)
    count("process.cpu.time", "s", "CPU time of all threads", cpu_seconds)
    level("observer.watchers", "{watcher}", "Open live streams", lambda: observer.feed.watchers)


def _register_same(observer: Observer) -> None:
    count, level = observer.metrics.observe_count, observer.metrics.observe_level
    one, latest = observer.op_processor.one, observer.books.latest
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
    count("observer.ops.repeated", "{op}", "Journal lines that repeat an op", lambda: latest.repeats)


def _register_journals(observer: Observer) -> None:
    count, level = observer.metrics.observe_count, observer.metrics.observe_level
    logs: dict[str, CommitLog[Any]] = {"ops": observer.ops_log, "decisions": observer.decisions_log}
    label = "journal"
    count("observer.journal.records", "{record}", "Written", lambda: {k: v.committed for k, v in logs.items()}, label)
    count("observer.journal.size", "By", "Written", lambda: {k: v.committed_bytes for k, v in logs.items()}, label)
    count(
        "observer.journal.commits", "{commit}", "Group commits", lambda: {k: v.commits for k, v in logs.items()}, label
    )
    count(
        "observer.journal.commit.time",
        "s",
        "From a batch's first record to its write, summed over commits",
        lambda: {k: v.commit_seconds for k, v in logs.items()},
        label,
    )
    count(
        "observer.journal.errors",
        "{error}",
        "Writes and syncs that failed",
        lambda: {k: v.write_errors + v.sync_errors for k, v in logs.items()},
        label,
    )
    kept = observer.retention.journals
    level("observer.journal.kept", "By", "Bytes on disk", lambda: {each.name: each.bytes for each in kept}, label)
    level("observer.journal.segments", "{file}", "On disk", lambda: {each.name: each.segments for each in kept}, label)
    count(
        "observer.journal.dropped",
        "{file}",
        "Segments dropped by size or age; what they held stays counted",
        lambda: {each.name: each.dropped for each in kept},
        label,
    )
    count("observer.journal.damaged", "{record}", "Unreadable records", lambda: observer.checkpoint.damaged)
    count("observer.retention.failures", "{look}", "Bounds not enforced yet", lambda: observer.retention.failures)
    level(
        "observer.journal.pending",
        "By",
        "Bytes waiting to be written",
        lambda: {k: v.pending_bytes for k, v in logs.items()},
        label,
    )


def _register_export(observer: Observer) -> None:
    count, level, export = observer.metrics.observe_count, observer.metrics.observe_level, observer.export
    if export is None:
        return
    door, ops, spool = export.door, observer.op_processor, export.spool
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


def _register_analysis(observer: Observer) -> None:
    count, level = observer.metrics.observe_count, observer.metrics.observe_level
    cycle, model = observer.cycle, observer.model.asked
    count("observer.cycles", "{cycle}", "Cycles run", lambda: cycle.cycles)
    level("observer.cycle.duration", "s", "Duration of the last cycle", lambda: cycle.last_duration_ms / 1000)
    count(
        "observer.cycle.step.failures",
        "{step}",
        "Steps that failed or timed out",
        lambda: cycle.step_failures + cycle.step_timeouts + cycle.cycle_failures,
    )
    count(
        "observer.decisions.unwritten",
        "{decision}",
        "Decisions that the journal did not accept; they are made again",
        lambda: observer.analyzer.undecided + observer.consolidator.failed + observer.learning.undecided,
    )
    advisor, learning = observer.learning.advisor, observer.books.learning
    count("observer.advice.asked", "{request}", "Requests for advice", lambda: advisor.asked)
    count("observer.advice.told", "{item}", "Entries told to agents", lambda: advisor.told)
    count(
        "observer.decisions.overtaken",
        "{decision}",
        "Decisions of a cycle made void by a person's decision",
        lambda: observer.life_cycle.overtaken + observer.books.learning.playbook.overtaken,
    )
    count("observer.advice.undecided", "{request}", "Not given: the journal took too long", lambda: advisor.undecided)
    level("observer.rules", "{rule}", "Rules known", lambda: len(learning.rules.report().rules))
    count("observer.state.save.failures", "{save}", "Failed saves, retried", lambda: observer.checkpoint.failed_saves)
    count("observer.corrections", "{row}", "Corrections recorded", lambda: observer.corrections.recorded)
    count("observer.corrections.read.errors", "{error}", "Reads that failed", lambda: observer.corrections.read_errors)
    count("observer.model.calls", "{call}", "Calls to the model", lambda: model.calls)
    count("observer.model.failures", "{call}", "Calls without a usable answer", lambda: model.failures)
    _register_posts(observer)
    level("observer.incidents", "{incident}", "Incidents, by state", lambda: _by_state(observer), "state")
    learning_metrics.register(observer.metrics, observer.books.learning)


def _outboxes(observer: Observer) -> list[Outbox]:
    webhook = observer.webhook.outbox
    return [observer.outbox, *([webhook] if webhook is not None else [])]


def _register_posts(observer: Observer) -> None:
    count, level, all_ = observer.metrics.observe_count, observer.metrics.observe_level, _outboxes(observer)

    def total(name: str) -> Callable[[], int]:
        return lambda: sum(getattr(outbox, name) for outbox in all_)

    count("observer.posts.delivered", "{post}", "Posts delivered", total("delivered"))
    count("observer.posts.failed", "{attempt}", "Failed attempts to post", total("failed"))
    level("observer.posts.waiting", "{post}", "Posts waiting for delivery", total("waiting"))
    level("observer.posts.dead", "{post}", "Posts given up, kept as dead letters", total("dead"))
    oldest = "Age of the oldest waiting post"
    level("observer.posts.oldest", "s", oldest, lambda: max(outbox.oldest_s for outbox in all_))
