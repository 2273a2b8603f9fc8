"""What `/stats` says of the parts, and the losses of all of them, which the metrics say as well."""

from __future__ import annotations

from typing import Any

from sidecar.analysis.cycle import CycleLoop
from sidecar.pipeline.books import Books
from sidecar.pipeline.langfuse import Langfuse
from sidecar.pipeline.parts import Parts


def more_stats(parts: Parts, langfuse: Langfuse, cycle: CycleLoop) -> dict[str, Any]:
    """What `/stats` says beside the counts of the ring."""
    ring, books, learning = parts.store.ring, parts.store.books, parts.analysis.learning
    one = parts.spans.op_processor.one
    return {
        "cycle": cycle.cycles,
        "incidents": len(books.incidents),
        "incidents_by_state": books.incidents.by_state,
        "playbooks": len(books.learning.playbook),
        "rules": learning.rule_stats(),
        "advice": learning.advice_stats(),
        "operations_in_all": books.total.operations,
        "langfuse": langfuse.stats(),
        "amendments": {
            "in_ring": ring.amended_ops,
            "taken": books.latest.amended,
            "of_unknown_ops": books.latest.unknown,
            "repeated_ops": books.latest.repeats,
            "with_too_many_ids": books.latest.too_many,
        },
        "hints": parts.entrance.intake.hint_stats,
        "one_operation": {
            "absorbed": one.absorbed,
            "amended": one.amended,
            "forgotten": one.forgotten,
        },
        "lost": losses(parts, langfuse),
    }


def losses(parts: Parts, langfuse: Langfuse) -> dict[str, int]:
    """Counts of lost or refused items by cause; each means a bound that was reached, or a fault that was survived."""
    store, spans, analysis = parts.store, parts.spans, parts.analysis
    books, export, proxy = store.books, spans.export, parts.gateway.proxy
    return {
        "journal_full": store.journals.ops.refused,
        "journal_unwritten": store.journals.ops.unwritten,
        "journal_removed": store.journals.ops.removed,
        "span_unreadable": spans.op_processor.lost,
        "op_not_matched": spans.op_processor.unmatched,
        "consumer_failed": store.settled.failures + store.journals.ops.downstream_errors,
        "watcher_slow": store.feed.missed,
        "journal_damaged": analysis.checkpoint.damaged,
        "decision_not_applied": books.decided.failures + books.in_order.failures,
        "export_evicted": export.evicted if export is not None else 0,
        "export_failed": sum(export.failed.values()) if export is not None else 0,
        "export_unreadable": export.source.unreadable if export is not None else 0,
        "span_not_encoded": (export.processor.lost if export is not None else 0) + spans.op_processor.unnoted,
        "spool_full": export.door.refused if export is not None else 0,
        "spool_damaged": export.spool.damaged if export is not None else 0,
        "post_lost": sum(outbox.lost for outbox in analysis.outboxes),
        "proxied_call": proxy.recorder.lost if proxy is not None else 0,
        "langfuse_score_unread": langfuse.desk.unjudged,
        "langfuse_item_not_recorded": langfuse.desk.unrecorded,
        "langfuse_not_forwarded": langfuse.not_forwarded,
        "correction_rejected": analysis.corrections.rejected,
        "saved_row_unusable": sum(book.unusable for book in books.saved.values()),
        "op_not_analysed": books.incidents.not_counted + books.successes.not_counted + books.learning.not_counted,
        "incident_evicted": books.incidents.evicted,
        "correction_kind_evicted": books.corrections.evicted,
        "template_evicted": books.incidents.templates_evicted,
        "success_evicted": books.successes.evicted,
        **_learning_losses(books),
    }


def _learning_losses(books: Books) -> dict[str, int]:
    learning = books.learning
    return {
        "rule_endpoint_evicted": learning.rules.evicted,
        "playbook_evicted": learning.playbook.evicted,
        "exposure_evicted": learning.exposures.evicted,
        "learnt_out_of_order": books.in_order.unordered,
    }
