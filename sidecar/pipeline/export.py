"""Builds the OTLP export. A module of its own because it is imported only if export is on.

ops.jsonl ──► journal source ──► lane ──► collector
own spans ──► spool ───────────► lane ──► collector
own metrics ─────────────────────────────► collector
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from sidecar.export.cursor_file import CursorFile
from sidecar.export.journal_export import JournalSource
from sidecar.export.lane import ExportLane
from sidecar.export.metric_export import MetricExport
from sidecar.export.otlp_sender import Signal, otlp_sender
from sidecar.export.otlp_target import OtlpTarget, header_pairs, timeout_seconds
from sidecar.export.span_encoding import request_wrapper, span_bytes
from sidecar.export.span_spooler import SpanSpooler
from sidecar.export.spool import Spool
from sidecar.export.spool_door import SpoolDoor
from sidecar.metrics import OwnMetrics
from sidecar.model import ObservedOp
from sidecar.pipeline.spool_log import spool_log
from sidecar.protocols import Clock, Stage
from sidecar.settings import Settings
from sidecar.spans.recorder import SCOPE_NAME
from sidecar.store.commit_log import CommitLog
from sidecar.store.journal_reader import JournalReader
from sidecar.version import our_version

_DRAIN_SHARE = 4  # 1/4 of the grace period; the rest is for the journals


def otlp_target(settings: Settings, signal: Signal) -> OtlpTarget:
    """The OTLP target for *signal*. Over HTTP a signal's own endpoint is the whole URL, the general one a base URL.

    Source: OTLP exporter specification, endpoint URLs for OTLP/HTTP.
    """

    def said(name: str) -> Any:
        own = getattr(settings, f"otlp_traces_{name}") if signal == "traces" else ""
        return own or getattr(settings, f"otlp_{name}")

    own_endpoint = settings.otlp_traces_endpoint if signal == "traces" else settings.otlp_metrics_endpoint
    protocol = said("protocol")
    endpoint = own_endpoint or settings.otlp_endpoint
    if protocol != "grpc" and not own_endpoint:
        endpoint = f"{endpoint.rstrip('/')}/v1/{signal}"
    return OtlpTarget(
        endpoint,
        protocol,
        header_pairs(said("headers")),
        timeout_seconds(said("timeout")),
        said("compression") == "gzip",
        said("certificate"),
        said("client_key"),
        said("client_certificate"),
    )


class Export:
    """The export of spans. `door` takes requests into the spool; `processor` puts the observer's own spans there.

    `source` follows the journal of ops. `begins` (before the journal of ops in flow order), `spool_log` and the `lanes`
    (last) are stages.
    """

    def __init__(
        self, settings: Settings, resource: Resource, data_dir: Path, ops_log: CommitLog[ObservedOp], clock: Clock
    ) -> None:
        target = otlp_target(settings, "traces")
        self.source = JournalSource(
            JournalReader(data_dir / "ops.jsonl"),
            lambda: ops_log.settled_offset,
            CursorFile(data_dir / "export.cursor.json"),
            encode=span_bytes,
            wrap=request_wrapper(resource, InstrumentationScope(SCOPE_NAME, our_version())),
        )
        spool_bytes = settings.spool_bytes
        self.spool = Spool(data_dir / "spool", clock, max_bytes=spool_bytes, max_age_s=settings.spool_max_age)
        self.spool_log = spool_log("spool", self.spool, settings, clock)
        self.door = SpoolDoor(self.spool_log)
        self.processor = SpanSpooler(self.door)
        patience: dict[str, Any] = {
            "timeout_s": target.timeout_s,
            "drain_s": settings.grace / _DRAIN_SHARE,
            "random": random.random,
        }
        self.journal_lane = ExportLane("export-journal", self.source, otlp_sender(target), **patience)
        self.spool_lane = ExportLane("export-spool", self.spool, otlp_sender(target), **patience)
        self.begins: Stage = _Begins(self.source, ops_log)

    @property
    def lanes(self) -> list[ExportLane]:
        """Both lanes."""
        return [self.journal_lane, self.spool_lane]

    @property
    def exported(self) -> int:
        """Spans that the collector accepted."""
        return sum(lane.exported for lane in self.lanes)

    @property
    def failed(self) -> dict[str, int]:
        """Spans lost for good, by cause."""
        return {cause: sum(lane.failed[cause] for lane in self.lanes) for cause in self.journal_lane.failed}

    @property
    def evicted(self) -> int:
        """Spans that a disk bound removed before export."""
        return self.source.evicted + self.spool.evicted

    @property
    def waiting_bytes(self) -> dict[str, int]:
        """Bytes on disk not exported yet, by place."""
        return {"journal": self.source.waiting_bytes, "spool": self.spool.waiting_bytes}


def metric_export(settings: Settings, metrics: OwnMetrics, clock: Clock) -> MetricExport:
    """The stage that pushes *metrics*."""
    target = otlp_target(settings, "metrics")
    return MetricExport(
        metrics.read,
        otlp_sender(target, "metrics"),
        clock,
        interval_s=settings.metric_export_interval / 1000,
        timeout_s=target.timeout_s,
        drain_s=settings.grace / _DRAIN_SHARE,
    )


class _Begins:
    """Tells the export where the journal ends: started after the journal, as it comes before it in flow order."""

    name = "export-begin"

    def __init__(self, source: JournalSource, ops_log: CommitLog[ObservedOp]) -> None:
        self._source = source
        self._ops_log = ops_log

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Begin at the end of the journal, which is open now."""
        self._source.begin(self._ops_log.settled_offset)

    async def stop(self) -> None:
        """Does nothing: what settles from here on is exported as well."""
