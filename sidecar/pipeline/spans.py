"""Builds the tracer provider: every operation is a span, and processors pass it on.

span ──► op processor ──► journal of ops ──► ring, books
     └──► export's processor ──► spool ──► collector
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from sidecar.metrics import OwnMetrics
from sidecar.model import ObservedOp
from sidecar.protocols import Clock
from sidecar.settings import Settings
from sidecar.spans.provider import export_sampler, our_resource, tracer_provider
from sidecar.spans.recorder import SCOPE_NAME, OpRecorder
from sidecar.spans.span_processor import OpSpanProcessor
from sidecar.store.commit_log import CommitLog
from sidecar.version import our_version

if TYPE_CHECKING:  # imported below, only where it is needed
    from sidecar.export.metric_export import MetricExport
    from sidecar.pipeline.export import Export


class Spans:
    """`recorder` and `tracer` make spans; `op_processor` turns ended ones into ops for *ops_log*.

    `export` and `metric_export` are None unless the settings turn them on.
    """

    def __init__(
        self, settings: Settings, env: Mapping[str, str], ops_log: CommitLog[ObservedOp], clock: Clock
    ) -> None:
        self.op_processor = OpSpanProcessor(ops_log, clock)
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's is not annotated
        processors.add_span_processor(self.op_processor)
        resource = our_resource(settings.service_name, env)
        self.metrics = OwnMetrics(resource)
        self.export: Export | None = None
        self.metric_export: MetricExport | None = None
        if settings.export_endpoint or settings.metrics_endpoint:
            from sidecar.pipeline import export  # noqa: PLC0415 - gRPC alone takes 10 MiB and 0.2 s

            if settings.export_endpoint:
                self.export = export.Export(settings, resource, Path(settings.data_dir), ops_log, clock)
                processors.add_span_processor(self.export.processor)
            if settings.metrics_endpoint:
                self.metric_export = export.metric_export(settings, self.metrics, clock)
        sampler = export_sampler(settings.traces_sampler, settings.traces_sampler_arg)
        self.provider = tracer_provider(resource, sampler, processors)
        self.tracer = self.provider.get_tracer(SCOPE_NAME, our_version())
        self.recorder = OpRecorder(self.provider)
