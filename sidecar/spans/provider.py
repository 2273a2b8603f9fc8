"""Builds the tracer provider: our resource, a sampler that records everything, and limits that never evict."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from sidecar.version import our_version

MAX_ATTRIBUTES = 256  # an op's fields, 64 features, 64 extras and the standard keys are fewer


DEFAULT_SERVICE_NAME = "lakehouse-observer"


class WitnessSampler(Sampler):
    """Records every span; *export* only decides which spans get the sampled flag and so are exported.

    *every_root* is the decision of *export* for spans without a parent; None if it depends on the trace.
    """

    def __init__(self, export: Sampler) -> None:
        self._export = export
        root = export.get_description().removeprefix("ParentBased{root:")
        self.every_root = root.startswith("AlwaysOn") if root.startswith(("AlwaysOn", "AlwaysOff")) else None

    def should_sample(  # noqa: PLR0917 - the signature is the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The decision of *export*, with DROP replaced by RECORD_ONLY. Source: OTel SDK spec, Sampling."""
        result = self._export.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.DROP:
            return SamplingResult(Decision.RECORD_ONLY, result.attributes, result.trace_state)
        return result

    def get_description(self) -> str:
        """The description that the Sampler interface requires."""
        return f"WitnessSampler({self._export.get_description()})"


def export_sampler(name: str, ratio: float) -> Sampler:
    """The standard sampler named *name* (`OTEL_TRACES_SAMPLER`)."""
    root: Sampler = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}.get(
        name.removeprefix("parentbased_"), TraceIdRatioBased(ratio)
    )
    return ParentBased(root) if name.startswith("parentbased_") else root


def our_resource(service_name: str, env: Mapping[str, str]) -> Resource:
    """Our resource: `service.*`, and `k8s.*` where the downward API provides it.

    `service.instance.id` is `namespace.pod.container` in Kubernetes (OTel's Kubernetes conventions), else
    `host.pid`. `OTEL_RESOURCE_ATTRIBUTES` is read by the SDK and wins.
    """
    k8s = {
        "k8s.pod.name": env.get("K8S_POD_NAME"),
        "k8s.pod.uid": env.get("K8S_POD_UID"),
        "k8s.namespace.name": env.get("K8S_NAMESPACE_NAME"),
        "k8s.node.name": env.get("K8S_NODE_NAME"),
        "k8s.container.name": env.get("K8S_CONTAINER_NAME"),
    }
    place = [k8s[key] for key in ("k8s.namespace.name", "k8s.pod.name", "k8s.container.name")]
    instance = ".".join(filter(None, place)) if all(place) else f"{socket.gethostname()}.{os.getpid()}"
    ours: dict[str, str] = {
        "service.name": service_name,
        "service.version": our_version(),
        "service.instance.id": instance,
        **{key: value for key, value in k8s.items() if value},
    }
    defaults = Resource.create({}).attributes  # telemetry.sdk.*, random instance id, name: ours override them
    said = dict(OTELResourceDetector().detect().attributes)  # OTEL_RESOURCE_ATTRIBUTES
    if service_name != DEFAULT_SERVICE_NAME:  # set explicitly, possibly by a flag: it wins
        said.pop("service.name", None)
    return Resource({**defaults, **ours, **said})


class _WitnessProvider(TracerProvider):
    """A provider that `OTEL_SDK_DISABLED` does not blind: that variable turns export off, in `Settings`."""

    def __init__(
        self,
        *,
        sampler: Sampler,
        resource: Resource,
        shutdown_on_exit: bool,
        active_span_processor: SynchronousMultiSpanProcessor,
        span_limits: SpanLimits,
    ) -> None:
        super().__init__(
            sampler=sampler,
            resource=resource,
            shutdown_on_exit=shutdown_on_exit,
            active_span_processor=active_span_processor,
            span_limits=span_limits,
        )
        self._disabled = False


def tracer_provider(resource: Resource, sampler: Sampler, processors: SynchronousMultiSpanProcessor) -> TracerProvider:
    """A provider with explicit limits, whatever `OTEL_*_LIMIT` variables say; never the global one."""
    limits = SpanLimits(
        max_attributes=MAX_ATTRIBUTES,
        max_events=128,
        max_links=128,
        max_span_attributes=MAX_ATTRIBUTES,
        max_event_attributes=128,
        max_link_attributes=128,
        max_attribute_length=SpanLimits.UNSET,
        max_span_attribute_length=SpanLimits.UNSET,
    )
    return _WitnessProvider(
        sampler=WitnessSampler(sampler),
        resource=resource,
        shutdown_on_exit=False,
        active_span_processor=processors,
        span_limits=limits,
    )
