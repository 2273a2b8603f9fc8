"""What can be set: each field declares its environment variable, meaning and bounds.

The README's table and the command line's flags are generated from here. `settings` reads and checks the values.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sidecar.data_shares import Shares, shares

Port = Annotated[int, Meta(ge=0, le=65535)]
OptionalPort = Annotated[int, Meta(ge=-1, le=65535)]


def _doc(text: str, env: str | None = None, **bounds: Any) -> Meta:
    return Meta(description=text, extra={"env": env} if env else {}, **bounds)


def _otlp(text: str, name: str, **bounds: Any) -> Meta:
    return _doc(text, f"OTEL_EXPORTER_OTLP_{name}", **bounds)


class SettingsFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of `Settings`, with their units in the descriptions, and what follows from them."""

    gateway_url: Annotated[
        str, _doc("The agent gateway to observe; a path in it comes before that of each call", "GATEWAY_URL")
    ] = "http://localhost:3700"
    lakehouse_url: Annotated[str, _doc("Address of the local model", "LAKEHOUSE_URL")] = "http://localhost:3100"
    overseer_corrections_path: Annotated[
        str, _doc("File with overseer corrections, one JSON object a line", "OVERSEER_CORRECTIONS_PATH")
    ] = "data/_kb/overseer_corrections.jsonl"
    cycle: Annotated[float, _doc("Seconds between two cycles of analysis", ge=0.1, le=86400)] = 30.0
    host: Annotated[str, _doc("Address of the HTTP and gRPC ports; beyond loopback it needs a token")] = "127.0.0.1"
    port: Annotated[Port, _doc("Port of the HTTP API")] = 3800
    grpc_port: Annotated[OptionalPort, _doc("Port for gRPC (OTLP, `ObserverService`); -1 = none")] = 4317
    otlp_http_port: Annotated[OptionalPort, _doc("A second port for OTLP over HTTP, usually 4318; -1 = none")] = -1
    export_success_ratio: Annotated[
        float, _doc("Share of received traces that are passed on; those with failures always are", ge=0, le=1)
    ] = 1.0
    proxy_host: Annotated[str, _doc("Address the gateway proxy listens on")] = "127.0.0.1"
    proxy_port: Annotated[OptionalPort, _doc("Port of the gateway proxy, which agents call; -1 = none")] = 3701
    proxy_expose: Annotated[bool, _doc("Let the proxy listen beyond loopback")] = False
    proxy_paths: Annotated[
        str, _doc("Comma-separated paths that the proxy allows (`/tools`), with all below them; empty = all")
    ] = ""
    proxy_connect_timeout: Annotated[float, _doc("Seconds the proxy tries to reach the gateway", gt=0)] = 5.0
    proxy_first_byte_timeout: Annotated[float, _doc("Seconds the gateway may take to begin an answer", gt=0)] = 600.0
    proxy_idle_timeout: Annotated[float, _doc("Seconds of silence within a proxied call", gt=0)] = 600.0
    health_host: Annotated[str, _doc("Address of the health port; `0.0.0.0` for a kubelet's probes")] = "127.0.0.1"
    health_port: Annotated[Port, _doc("Port for health checks only")] = 3802
    allowed_hosts: Annotated[
        str, _doc("Comma-separated `Host` names, without port, to accept besides localhost and IP addresses")
    ] = ""
    data_dir: Annotated[str, _doc("Folder of journals and state")] = "data/_observer"
    data_max_bytes: Annotated[
        int, _doc("Most bytes in that folder: half for operations, a quarter for waiting spans", ge=2**24)
    ] = 2**30
    retention: Annotated[float, _doc("Days that journals are kept; 0 = as long as they have room", ge=0)] = 30.0
    fsync: Annotated[str, _doc("When the journal is forced to disk: `always`, every so many seconds, or `never`")] = "1"
    ring: Annotated[int, _doc("Most operations kept in memory", ge=10, le=100_000)] = 2000
    ring_bytes: Annotated[int, _doc("Most bytes of operations kept in memory", ge=65536)] = 16 * 2**20
    inflight_bytes: Annotated[int, _doc("Most bytes of all requests in flight", ge=2**20)] = 16 * 2**20
    commit_timeout: Annotated[float, _doc("Seconds a sender waits for the journal before it gets 503", gt=0)] = 10.0
    body_timeout: Annotated[float, _doc("Seconds a client may take to send one request", gt=0)] = 30.0
    token: Annotated[str, _doc("A token with all scopes")] = ""
    token_file: Annotated[
        str, _doc("File of tokens with scopes, one a line: `TOKEN scope,scope`; re-read on change")
    ] = ""
    allow_anonymous: Annotated[bool, _doc("Allow addresses beyond loopback without a token")] = False
    tls_cert: Annotated[str, _doc("PEM certificate; with `OBSERVER_TLS_KEY`, HTTP and gRPC ports use TLS")] = ""
    tls_key: Annotated[str, _doc("PEM key of that certificate")] = ""
    redact: Annotated[
        str, _doc("Comma-separated field names whose values are masked, besides the usual credentials")
    ] = ""
    langfuse_window: Annotated[
        float, _doc("Seconds after which an observation is over whose end older Langfuse SDKs did not report", ge=1)
    ] = 600.0
    langfuse_failing: Annotated[
        str, _doc("Comma-separated Langfuse scores that mean a failure: `accuracy<0.5`, `tone=rude`, `*<0.2`")
    ] = ""
    langfuse_forward_url: Annotated[
        str, _doc("Langfuse server to forward all requests of Langfuse clients to", "LANGFUSE_FORWARD_URL")
    ] = ""
    langfuse_forward_public_key: Annotated[str, _doc("Public key of its project", "LANGFUSE_FORWARD_PUBLIC_KEY")] = ""
    langfuse_forward_secret_key: Annotated[str, _doc("Secret key of its project", "LANGFUSE_FORWARD_SECRET_KEY")] = ""
    langfuse_pull_url: Annotated[
        str, _doc("Langfuse server to read observations and scores from, each cycle", "LANGFUSE_PULL_URL")
    ] = ""
    langfuse_pull_public_key: Annotated[str, _doc("Public key of its project", "LANGFUSE_PULL_PUBLIC_KEY")] = ""
    langfuse_pull_secret_key: Annotated[str, _doc("Secret key of its project", "LANGFUSE_PULL_SECRET_KEY")] = ""
    langfuse_pull_overlap: Annotated[
        float, _doc("Seconds by which readings overlap, because Langfuse shows some things late", ge=0)
    ] = 1200.0
    langfuse_pull_timeout: Annotated[float, _doc("Seconds the reading may take in one cycle", ge=0.1, le=600)] = 20.0
    holdout: Annotated[
        float, _doc("Share of tasks in the control group of an active entry, which are not told it", ge=0.01, le=0.9)
    ] = 0.1
    outcome_window: Annotated[
        float, _doc("Seconds after advice within which a task's next call counts as its outcome", ge=1, le=604_800)
    ] = 3600.0
    proxy_advice: Annotated[
        Literal["none", "agent", "gateway", "both"],
        _doc("Who gets advice in the header `X-Observer-Advice` of calls through the proxy"),
    ] = "none"
    advice_timeout: Annotated[
        float, _doc("Seconds to wait for the journal before a request for advice is answered with 503", gt=0)
    ] = 2.0
    model: Annotated[str, _doc("Name of the model, sent to its server")] = "qwen2.5"
    model_api: Annotated[
        Literal["lakehouse", "openai", "none"],
        _doc("API of that server: `/ai/generate`, or `/v1/chat/completions`; `none`: there is no model"),
    ] = "lakehouse"
    model_timeout: Annotated[float, _doc("Seconds the model may take", gt=0)] = 20.0
    webhook_url: Annotated[str, _doc("Address that gets a POST for new, escalating and regressed incidents")] = ""
    gateway_timeout: Annotated[float, _doc("Seconds a gateway call may take", gt=0)] = 60.0
    gateway_log: Annotated[bool, _doc("Post what is learnt to the gateway's `/log`")] = True
    grace: Annotated[float, _doc("Seconds to drain at stop; keep it below the pod's grace period", gt=0)] = 8.0
    require_gateway: Annotated[bool, _doc("Exit at start when the gateway does not answer")] = False
    log_format: Annotated[Literal["text", "json"], _doc("Format of the log on standard error")] = "text"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Lowest level that is logged")] = "info"
    otlp_endpoint: Annotated[str, _doc("Collector to export to; unset = no export", "OTEL_EXPORTER_OTLP_ENDPOINT")] = ""
    otlp_traces_endpoint: Annotated[
        str, _doc("The same for traces only; over HTTP no path is added", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    ] = ""
    otlp_protocol: Annotated[
        Literal["grpc", "http/protobuf"], _doc("How spans are exported", "OTEL_EXPORTER_OTLP_PROTOCOL")
    ] = "grpc"
    otlp_traces_protocol: Annotated[
        Literal["", "grpc", "http/protobuf"], _doc("The same for traces only", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
    ] = ""
    otlp_headers: Annotated[str, _otlp("Headers of each request: `key=value,key=value`", "HEADERS")] = ""
    otlp_traces_headers: Annotated[str, _otlp("The same for traces only", "TRACES_HEADERS")] = ""
    otlp_timeout: Annotated[
        float, _otlp("Milliseconds one attempt may take; below 100 they are seconds", "TIMEOUT", gt=0)
    ] = 10_000.0
    otlp_traces_timeout: Annotated[float, _otlp("The same for traces only; 0 = as above", "TRACES_TIMEOUT", ge=0)] = 0.0
    otlp_compression: Annotated[Literal["none", "gzip"], _otlp("How requests are compressed", "COMPRESSION")] = "none"
    otlp_traces_compression: Annotated[
        Literal["", "none", "gzip"], _otlp("The same for traces only", "TRACES_COMPRESSION")
    ] = ""
    otlp_certificate: Annotated[str, _otlp("PEM file to verify the collector with", "CERTIFICATE")] = ""
    otlp_traces_certificate: Annotated[str, _otlp("The same for traces only", "TRACES_CERTIFICATE")] = ""
    otlp_client_key: Annotated[str, _otlp("PEM key to show the collector", "CLIENT_KEY")] = ""
    otlp_traces_client_key: Annotated[str, _otlp("The same for traces only", "TRACES_CLIENT_KEY")] = ""
    otlp_client_certificate: Annotated[str, _otlp("PEM certificate of that key", "CLIENT_CERTIFICATE")] = ""
    otlp_traces_client_certificate: Annotated[str, _otlp("The same for traces only", "TRACES_CLIENT_CERTIFICATE")] = ""
    spool_max_bytes: Annotated[
        int, _doc("Most bytes of waiting spans outside the journal; the oldest are removed first", ge=2**20)
    ] = 256 * 2**20
    spool_max_age: Annotated[float, _doc("Most seconds that they wait", ge=60)] = 86_400.0
    metrics_exporter: Annotated[
        Literal["otlp", "none"], _doc("`none` turns export of the observer's own metrics off", "OTEL_METRICS_EXPORTER")
    ] = "otlp"
    metric_export_interval: Annotated[
        float, _doc("Milliseconds between two exports of these metrics", "OTEL_METRIC_EXPORT_INTERVAL", ge=100)
    ] = 60_000.0
    otlp_metrics_endpoint: Annotated[
        str, _otlp("Collector for these metrics, if it is another one; no path is added", "METRICS_ENDPOINT")
    ] = ""
    traces_exporter: Annotated[Literal["otlp", "none"], _doc("`none` turns export off", "OTEL_TRACES_EXPORTER")] = (
        "otlp"
    )
    traces_sampler: Annotated[
        Literal[
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ],
        _doc("Which spans are exported; all are journalled", "OTEL_TRACES_SAMPLER"),
    ] = "parentbased_always_on"
    traces_sampler_arg: Annotated[
        float, _doc("Ratio of the `traceidratio` samplers", "OTEL_TRACES_SAMPLER_ARG", ge=0, le=1)
    ] = 1.0
    sdk_disabled: Annotated[bool, _doc("`true` turns export off; recording goes on", "OTEL_SDK_DISABLED")] = False
    service_name: Annotated[str, _doc("`service.name` of the observer's spans", "OTEL_SERVICE_NAME")] = (
        "lakehouse-observer"
    )

    @property
    def fsync_every_s(self) -> float | None:
        """Seconds between two syncs; 0 = at every commit, None = never."""
        if self.fsync == "never":
            return None
        return 0.0 if self.fsync == "always" else float(self.fsync)

    @property
    def shares(self) -> Shares:
        """The data folder's bytes by purpose."""
        return shares(self.data_max_bytes)

    @property
    def spool_bytes(self) -> int:
        """The byte bound of one spool; there are two if Langfuse requests are forwarded."""
        share = self.shares.spool // 2 if self.langfuse_forward_url else self.shares.spool
        return min(self.spool_max_bytes, share)

    @property
    def retention_s(self) -> float | None:
        """Seconds that journals are kept; None = no age bound."""
        return self.retention * 86_400 or None

    @property
    def export_endpoint(self) -> str:
        """The OTLP endpoint for spans; "" = no export."""
        if self.sdk_disabled or self.traces_exporter == "none":
            return ""
        return self.otlp_traces_endpoint or self.otlp_endpoint

    @property
    def metrics_endpoint(self) -> str:
        """The OTLP endpoint for our own metrics; "" = no export."""
        off = self.sdk_disabled or self.metrics_exporter == "none"
        return "" if off else self.otlp_metrics_endpoint or self.otlp_endpoint

    @property
    def export_protocol(self) -> str:
        """The OTLP protocol for spans: `grpc` or `http/protobuf`."""
        return self.otlp_traces_protocol or self.otlp_protocol
