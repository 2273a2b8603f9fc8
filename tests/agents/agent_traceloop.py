"""A Python agent on Traceloop's SDK: a workflow, an agent, tools, and a model call through the gateway.

`python agent_traceloop.py`. TRACELOOP_BASE_URL says where the spans go, and by which protocol: `http://` or `grpc://`.
STRAIGHT is a second target, to compare both; GATEWAY_URL is the address of the model and of a tool's service. No code
of the observer's is used, and the SDK's own pipeline is left as it is.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-any-return"
# ^ its dependencies are installed in an environment of their own

from __future__ import annotations

import os

import openai
import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from traceloop.sdk import Traceloop
from traceloop.sdk.decorators import agent, task, tool, workflow

GATEWAY = os.environ["GATEWAY_URL"]


@tool(name="find_workers")
def find_workers(role: str, count: int) -> list[str]:
    """A tool that fails."""
    raise LookupError("nobody is free")


@tool(name="open_shifts")
def open_shifts(city: str) -> int:
    """A tool that calls the gateway, with an HTTP client that the SDK traces."""
    return requests.post(f"{GATEWAY}/shifts", json={"city": city}, timeout=60).status_code


@task(name="ask")
def ask(question: str) -> str | None:
    """The model call."""
    client = openai.OpenAI(api_key="none", base_url=f"{GATEWAY}/v1", max_retries=0)
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="small-chat", messages=messages).choices[0].message.content


@agent(name="staffing")
def staff(city: str) -> str | None:
    """The agent goes on after a tool has failed."""
    answer = ask("Who is free?")
    try:
        find_workers(role="forklift", count=2)
    except LookupError:
        open_shifts(city=city)
    return answer


@workflow(name="plan_week")
def plan(week: int) -> str | None:
    """The whole."""
    return staff(city="Toledo")


def main() -> None:
    """Plan a week, traced."""
    Traceloop.init("traceloop-agent")
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=os.environ["STRAIGHT"])))
    Traceloop.set_association_properties({"session_id": "week-31", "user_id": "ann"})
    plan(week=31)


if __name__ == "__main__":
    main()
