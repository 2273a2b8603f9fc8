"""One incident in full, as `GET /incidents/{fingerprint}` shows it. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.timeline import Buckets, Timeline
from sidecar.clock import rfc3339_ms


def incident_details(book: IncidentBook, fingerprint: str) -> dict[str, Any] | None:
    """The incident's fields with `history`, `timeline`, `common` and `trace_ids`; None if *book* does not have it."""
    row = book.row(fingerprint)
    if row is None:
        return None
    known: dict[str, Any] = msgspec.to_builtins(row.incident)
    common = [each._asdict() for each in book.common(row.incident)]
    traces = list(dict.fromkeys(trace_id for trace_id, _ in row.incident.evidence))
    return {
        **known,
        "history": msgspec.to_builtins(row.history),
        "timeline": _timeline(row.timeline),
        "common": common,
        "trace_ids": traces,
    }


def _timeline(timeline: Timeline) -> list[dict[str, Any]]:
    """Failures by minute, hour and day: `{"width_s", "from", "counts"}`; the last count has the latest failure."""
    return [
        {"width_s": width, "from": rfc3339_ms(_start(buckets) * width * 10**9), "counts": buckets.counts}
        for width, buckets in timeline.levels()
        if buckets.counts
    ]


def _start(buckets: Buckets) -> int:
    return buckets.last - len(buckets.counts) + 1
