"""A Python agent, traced by the SDKs of its environment: one model call through the gateway, and reports of it.

`python agent.py openai_v2|openinference|openllmetry grpc|http/protobuf`. OTEL_EXPORTER_OTLP_ENDPOINT says where the
spans go; STRAIGHT is a second target, to compare both; GATEWAY_URL is the model's address. OBSERVER, if set, gets two
more reports of the call: by Langfuse's SDK and as a scenario event. No code of the observer's is used.
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# ^ its dependencies are installed in an environment of their own
# ruff: noqa: PLC0415 - each instrumentation is imported where it is used

from __future__ import annotations

import json
import os
import sys
import urllib.request
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


def main(instrumentation: str, protocol: str) -> None:
    """Ask the model once, traced."""
    provider = TracerProvider(resource=Resource.create({"service.name": "python-agent"}))
    provider.add_span_processor(SimpleSpanProcessor(GrpcExporter() if protocol == "grpc" else HttpExporter()))
    provider.add_span_processor(SimpleSpanProcessor(HttpExporter(endpoint=os.environ["STRAIGHT"])))
    trace.set_tracer_provider(provider)
    {"openai_v2": openai_v2, "openinference": openinference, "openllmetry": openllmetry}[instrumentation](provider)
    with provider.get_tracer("agent").start_as_current_span("work"):
        reporting = langfuse() if "OBSERVER" in os.environ else None
        ask()
        if reporting is not None:
            report(reporting)
    provider.shutdown()


def openai_v2(provider: TracerProvider) -> None:
    """OpenTelemetry's own, with its HTTP client instrumentation."""
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    OpenAIInstrumentor().instrument(tracer_provider=provider)


def openinference(provider: TracerProvider) -> None:
    """Arize's, with OpenTelemetry's HTTP client instrumentation."""
    from openinference.instrumentation.openai import OpenAIInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    OpenAIInstrumentor().instrument(tracer_provider=provider)


def openllmetry(provider: TracerProvider) -> None:
    """OpenLLMetry's, which traceloop-sdk sets up; without an HTTP client instrumentation."""
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)


def ask() -> None:
    """The call."""
    import openai

    client = openai.OpenAI(api_key="none", base_url=f"{os.environ['GATEWAY_URL']}/v1", max_retries=0)
    client.chat.completions.create(model="small-chat", messages=[{"role": "user", "content": "Who is free?"}])


def langfuse() -> Any:
    """Langfuse's SDK, its server being the observer."""
    from langfuse import Langfuse

    url = os.environ["OBSERVER"]
    return Langfuse(public_key="public", secret_key="secret", base_url=url, tracer_provider=TracerProvider())


def report(client: Any) -> None:
    """Report the call two more times: as a Langfuse observation, and as a scenario event.

    The client that posts the event is not traced, so the event's parent is the work, not a span of the post.
    """
    with client.start_as_current_observation(as_type="generation", name="answer", input="Who is free?") as told:
        told.update(model="small-chat", output="Mia is free.")
    client.flush()
    headers = {"Content-Type": "application/json"}
    propagate.inject(headers)
    event = json.dumps({"event_kind": "ask", "role": "forklift", "success": True}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{os.environ['OBSERVER']}/event", event, headers)).close()


if __name__ == "__main__":
    main(*sys.argv[1:])
