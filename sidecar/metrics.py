"""The observer's own metrics: OpenTelemetry instruments over plain counters, also rendered as Prometheus text.

All instruments are observable: counting costs an integer addition, and the rest happens when the metrics are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

Number = int | float
Reading = Callable[[], Number | Mapping[str, Number] | Mapping[tuple[str, ...], Number]]
"""A value, or values by label value (a tuple if there are several labels)."""


class OwnMetrics:
    """A meter provider with its own registry; `observe_*` connects a counter to a metric name."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, resource: Resource) -> None:
        self._registry = CollectorRegistry()
        self._pulled = InMemoryMetricReader()  # holds nothing between two reads: nothing is pushed into it
        readers: list[MetricReader] = [PrometheusMetricReader(registry=self._registry), self._pulled]
        self._provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter("lakehouse-observer")

    def observe_count(self, name: str, unit: str, text: str, read: Reading, *labels: str) -> None:
        """A monotonic counter `name` in *unit* (UCUM); *labels* name the parts of a mapping's keys."""
        self._meter.create_observable_counter(name, [_callback(read, labels)], unit, text)

    def observe_level(self, name: str, unit: str, text: str, read: Reading, *labels: str) -> None:
        """A gauge `name` in *unit* (UCUM); *labels* as for `observe_count`."""
        self._meter.create_observable_gauge(name, [_callback(read, labels)], unit, text)

    def render(self) -> bytes:
        """All metrics now, as Prometheus text."""
        return generate_latest(self._registry)

    def read(self) -> MetricsData | None:
        """All metrics now, as the SDK's data."""
        return self._pulled.get_metrics_data()

    def shutdown(self) -> None:
        """Shut the readers down."""
        self._provider.shutdown()


def _callback(read: Reading, labels: tuple[str, ...]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observations(_options: CallbackOptions) -> Iterable[Observation]:
        value = read()
        if isinstance(value, Mapping):
            return [Observation(number, _named(labels, key)) for key, number in value.items()]
        return [Observation(value)]

    return observations


def _named(labels: tuple[str, ...], key: str | tuple[str, ...]) -> dict[str, str]:
    return dict(zip(labels, (key,) if isinstance(key, str) else key, strict=True))
