"""Records what real instrumentations send: runs one scenario against a small server of its own, keeps its OTLP.

Run in an environment that has the instrumentation, apart from the project's (`requirements` of each scenario):

    python -m venv recording && recording/bin/pip install openinference-instrumentation-openai openai ...
    recording/bin/python tests/data/otlp/record.py openinference_openai

Writes `<scenario>-<version>.json` beside this file: one OTLP/JSON request, without anything that names the machine it
was made on (resource attributes other than a few, ports, stack traces).
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-any-return, misc, attr-defined"
# ^ what it records is installed in an environment of its own, never in the project's
# ruff: noqa: PLC0415, T201 - each scenario imports what only its environment has; a program prints

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from doors import Doors

HERE = Path(__file__).parent
KEPT_RESOURCE = ("service.name", "telemetry.sdk.", "telemetry.distro")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_workers",
            "description": "Workers who could fill a shift",
            "parameters": {"type": "object", "properties": {"role": {"type": "string"}, "count": {"type": "integer"}}},
        },
    }
]
QUESTION = [
    {"role": "system", "content": "You staff warehouses."},
    {"role": "user", "content": "Who can drive a forklift in Toledo?"},
]


def sdk_provider(base: str) -> Any:
    """A plain SDK provider that exports to the receiver."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "staffing-agent"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{base}/v1/traces")))
    trace.set_tracer_provider(provider)
    return provider


def openai_calls(base: str) -> None:
    """A chat, one with tools, a streamed one, one that fails, and an embedding."""
    ask_all(__import__("openai").OpenAI(api_key="none", base_url=f"{base}/v1", max_retries=0))


def ask_all(client: Any) -> None:
    """The calls themselves."""
    chat: Any = client.chat.completions.create
    chat(model="small-chat", messages=QUESTION, temperature=0.2, max_tokens=64)
    chat(model="small-chat", messages=QUESTION, tools=TOOLS)
    for _ in chat(model="small-chat", messages=QUESTION, stream=True, stream_options={"include_usage": True}):
        pass
    try:
        chat(model="no-such-model", messages=QUESTION)
    except Exception as exc:
        print(type(exc).__name__)
    client.embeddings.create(model="small-embed", input="forklift driver")


def find_workers(role: str, count: int) -> dict[str, Any]:
    """Workers who could fill a shift."""
    if count > 10:
        raise ValueError(f"only 4 workers are {role} drivers")
    return {"workers": ["Ann", "Bo"], "role": role}


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call what fails."""
    try:
        call(*args, **kwargs)
    except ValueError as exc:
        print(type(exc).__name__)


def openinference_openai(base: str) -> str:
    """requirements: openinference-instrumentation-openai openai opentelemetry-exporter-otlp-proto-http."""
    from openinference.instrumentation import OITracer, TraceConfig, using_attributes
    from openinference.instrumentation.openai import OpenAIInstrumentor

    provider = sdk_provider(base)
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    tracer = OITracer(provider.get_tracer("staffing"), config=TraceConfig())
    find = tracer.tool(name="find_workers")(find_workers)

    @tracer.agent(name="dispatcher")
    def dispatch(question: str) -> str:
        find(role="forklift", count=2)
        refused(find, role="forklift", count=40)
        return f"done: {question}"

    @tracer.chain(name="plan_week")
    def plan(week: int) -> str:
        return dispatch(f"week {week}")

    with using_attributes(session_id="shift-7", user_id="ann"):
        plan(31)
        openai_calls(base)
    return version("openinference-instrumentation-openai")


def openinference_langchain(base: str) -> str:
    """requirements: openinference-instrumentation-langchain langchain-openai opentelemetry-exporter-otlp-proto-http."""
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=sdk_provider(base))
    finder = tool("find_workers")(find_workers)
    finder.invoke({"role": "forklift", "count": 2})
    refused(finder.invoke, {"role": "forklift", "count": 40})

    class Shifts(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(page_content=f"open: {query}")]

    Shifts().invoke("forklift in Toledo")
    model = ChatOpenAI(model="small-chat", api_key="none", base_url=f"{base}/v1", max_retries=0)
    (model | (lambda message: message.content)).invoke("Who can drive a forklift in Toledo?")
    try:
        ChatOpenAI(model="no-such-model", api_key="none", base_url=f"{base}/v1", max_retries=0).invoke("Who?")
    except Exception as exc:
        print(type(exc).__name__)
    return version("openinference-instrumentation-langchain")


def traceloop_sdk(base: str) -> str:
    """requirements: those of tests/agents/requirements-traceloop.txt (older pips find no solution by themselves)."""
    os.environ["TRACELOOP_TELEMETRY"] = "FALSE"
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from traceloop.sdk import Traceloop
    from traceloop.sdk.decorators import agent, task, tool, workflow
    from traceloop.sdk.instruments import Instruments

    exporter = OTLPSpanExporter(f"{base}/v1/traces")
    Traceloop.init(app_name="staffing-agent", disable_batch=True, exporter=exporter, instruments={Instruments.OPENAI})
    Traceloop.set_association_properties({"user_id": "ann", "session_id": "shift-7"})
    find = tool(name="find_workers")(find_workers)

    @task(name="summarise")
    def summarise(text: str) -> str:
        return text.upper()

    @agent(name="dispatcher")
    def dispatch(question: str) -> str:
        find(role="forklift", count=2)
        refused(find, role="forklift", count=40)
        return summarise(question)

    @workflow(name="plan_week")
    def plan(week: int) -> str:
        answer: str = dispatch(f"week {week}")
        openai_calls(base)
        return answer

    plan(31)
    return version("traceloop-sdk")


def openllmetry_openai(base: str) -> str:
    """requirements: opentelemetry-instrumentation-openai openai opentelemetry-exporter-otlp-proto-http."""
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sdk_provider(base))
    openai_calls(base)
    return version("opentelemetry-instrumentation-openai")


def openai_v2(base: str) -> str:
    """requirements: opentelemetry-instrumentation-openai-v2 openai opentelemetry-exporter-otlp-proto-http."""
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=sdk_provider(base))
    openai_calls(base)
    return version("opentelemetry-instrumentation-openai-v2")


def openai_v2_content(base: str) -> str:
    """requirements: opentelemetry-instrumentation-openai-v2 openai opentelemetry-exporter-otlp-proto-http."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    return openai_v2(base)


def util_genai(base: str) -> str:
    """requirements: opentelemetry-util-genai opentelemetry-exporter-otlp-proto-http."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    from opentelemetry.util.genai.handler import get_telemetry_handler
    from opentelemetry.util.genai.types import InputMessage, OutputMessage, Text

    handler: Any = get_telemetry_handler(tracer_provider=sdk_provider(base))

    def call(count: int) -> None:
        with handler.tool("find_workers", tool_type="function") as tool:
            tool.tool_call_id = f"call_{count}"
            tool.arguments = {"role": "forklift", "count": count, "shift": {"start": "06:00"}, "skills": ["a", "b"]}
            tool.tool_result = find_workers("forklift", count)

    with (
        handler.workflow("plan_week"),
        handler.invoke_local_agent(agent_name="dispatcher", request_model="small-chat") as agent,
    ):
        agent.conversation_id = "shift-7"
        agent.input_messages = [InputMessage(role="user", parts=[Text(content="Who can drive a forklift?")])]
        agent.output_messages = [
            OutputMessage(role="assistant", parts=[Text(content="Ann and Bo can.")], finish_reason="stop")
        ]
        agent.input_tokens, agent.output_tokens = 21, 9
        call(2)
        refused(call, 40)
        with handler.retrieval(data_source_id="shifts") as retrieval:
            retrieval.query_text = "forklift in Toledo"
    return version("opentelemetry-util-genai")


def evaluation_event(base: str) -> str:
    """requirements: opentelemetry-sdk opentelemetry-exporter-otlp-proto-http (events by hand)."""
    tracer = sdk_provider(base).get_tracer("evaluator")
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "small-chat"}
    for score, label in ((0.9, "pass"), (0.1, "fail")):
        with tracer.start_as_current_span("chat small-chat", attributes=said) as span:
            span.add_event(
                "gen_ai.evaluation.result",
                {
                    "gen_ai.evaluation.name": "Relevance",
                    "gen_ai.evaluation.score.value": score,
                    "gen_ai.evaluation.score.label": label,
                    "gen_ai.evaluation.explanation": "names two workers" if score > 0.5 else "names nobody",
                },
            )
    return version("opentelemetry-sdk")


def langfuse(base: str) -> str:
    """requirements: langfuse openai (one environment for each major version)."""
    os.environ["OTEL_SERVICE_NAME"] = "staffing-agent"
    from langfuse import Langfuse, propagate_attributes
    from langfuse.openai import OpenAI

    client: Any = Langfuse(public_key="public", secret_key="private", base_url=base, host=base)

    def step(kind: str, name: str, given: Any) -> Any:
        return client.start_as_current_observation(as_type=kind, name=name, input=given)

    with propagate_attributes(user_id="ann", session_id="shift-7"), step("agent", "dispatcher", {"week": 31}) as agent:
        with step("tool", "find_workers", {"role": "forklift", "count": 2}) as tool:
            tool.update(output=find_workers("forklift", 2))
        with step("tool", "find_workers", {"role": "forklift", "count": 40}) as tool:
            tool.update(level="ERROR", status_message="only 4 workers are forklift drivers")
        refused(raising, step)
        with step("span", "plan_week", {"week": 31}) as span:
            span.update(level="WARNING", status_message="slow", output="planned")
        with step("generation", "answer", "Who can drive a forklift?") as generation:
            generation.update(model="small-chat", output="Ann and Bo can.", usage_details={"input": 21, "output": 9})
        with step("retriever", "shifts", "forklift in Toledo") as found:
            found.update(output=["open"])
        client.create_event(name="shift_opened", input={"city": "Toledo"})
        ask_all(OpenAI(api_key="none", base_url=f"{base}/v1", max_retries=0))
        agent.update(output="done")
    client.flush()
    return version("langfuse")


def raising(step: Callable[..., Any]) -> None:
    """A tool that raises inside its observation."""
    with step("tool", "find_workers", {"role": "forklift", "count": 41}):
        find_workers("forklift", 41)


def http_clients(base: str) -> str:
    """requirements: opentelemetry-instrumentation-{httpx,requests,urllib3,aiohttp-client} httpx requests aiohttp."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = os.environ.get("SEMCONV", "http")
    import asyncio

    import aiohttp
    import httpx
    import requests
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    provider = sdk_provider(base)
    RequestsInstrumentor().instrument(tracer_provider=provider, excluded_urls="traces")
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    AioHttpClientInstrumentor().instrument(tracer_provider=provider)
    search = f"{base}/search?q=forklift&api_key=abc123"
    httpx.post(search, json={"role": "forklift"})
    requests.post(f"{base}/nowhere/7", json={}, timeout=5)

    async def third() -> None:
        async with aiohttp.ClientSession() as session, session.post(search, json={}) as answer:
            await answer.read()

    asyncio.run(third())
    try:
        httpx.post("http://127.0.0.1:9/closed")
    except httpx.ConnectError:
        print("ConnectError")
    return version("opentelemetry-instrumentation-httpx")


def http_clients_old(base: str) -> str:
    """requirements: as for http_clients; the names of before the conventions were stable."""
    os.environ["SEMCONV"] = ""
    return http_clients(base)


SCENARIOS: dict[str, Callable[[str], str]] = {
    run.__name__: run
    for run in (
        openinference_openai,
        openinference_langchain,
        traceloop_sdk,
        openllmetry_openai,
        openai_v2,
        openai_v2_content,
        util_genai,
        evaluation_event,
        langfuse,
        http_clients,
        http_clients_old,
    )
}


def scrubbed(value: Any, port: int) -> Any:
    """*value* (OTLP/JSON) without what names this machine: ids in hex, the gateway's usual port, no stack traces."""
    if isinstance(value, list):
        return [scrubbed(each, port) for each in value]
    if isinstance(value, dict):
        if value.get("key") == "exception.stacktrace":
            return {"key": "exception.stacktrace", "value": {"stringValue": "Traceback (most recent call last): …"}}
        if "attributes" in value and set(value) <= {"attributes", "droppedAttributesCount"}:  # a resource
            kept = [each for each in value["attributes"] if each["key"].startswith(KEPT_RESOURCE)]
            return {"attributes": [scrubbed(each, port) for each in kept]}
        return {
            key: base64.b64decode(each).hex() if key.endswith(("traceId", "spanId", "SpanId")) else scrubbed(each, port)
            for key, each in value.items()
        }
    if isinstance(value, str):
        value = re.sub(
            r"Traceback \(most recent call last\):.*", "Traceback (most recent call last): …", value, flags=re.DOTALL
        )
        text = value.replace(str(HERE.parents[2]), "").replace(sys.prefix, "")
        return "3700" if text == str(port) else re.sub(rf":{port}\b", ":3700", text)
    return value


def main(scenario: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Doors)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    made_by = SCENARIOS[scenario](f"http://127.0.0.1:{port}")
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    whole = ExportTraceServiceRequest()
    for request in Doors.requests:
        whole.MergeFromString(request)
    said = scrubbed(MessageToDict(whole, use_integers_for_enums=True), port)
    path = HERE / f"{scenario}-{made_by}.json"
    path.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n")
    spans = sum(len(scope["spans"]) for each in said["resourceSpans"] for scope in each["scopeSpans"])
    print(f"{path.name}: {spans} spans")


if __name__ == "__main__":
    main(sys.argv[1])
