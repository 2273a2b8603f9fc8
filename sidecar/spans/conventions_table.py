"""The table: which received spans are operations, what their attributes say, and who wins where several saw one.

Data only. `conventions` reads spans by `KINDS` and `KEYS`; `same_operation` decides by `WITNESSES`, `INSIDE`, `BESIDE`.

Each operation has a name of the GenAI conventions (`execute_tool`, `chat`, …), whatever convention the span follows,
so an agent that changes its instrumentation keeps its history. What only groups other operations is no op: its
failures are those of what it holds, and would be counted twice (OpenInference CHAIN, OpenLLMetry workflow and task,
GenAI invoke_workflow). All of Langfuse's types are operations, since scores are given to each of them; every step is a
`span` there that nobody named otherwise, and its level tells how it went.

Conventions, versions and sources:

    own            observer.op.*, schema version 1; `spans.attributes`. Exact: the op comes back as it was.
    langfuse       langfuse.observation.*, Python SDK 3.15, 4.18 and 5.0; langfuse.com/integrations/native/opentelemetry
    openinference  openinference-semantic-conventions 0.1.42; github.com/Arize-ai/openinference, spec/
    genai          GenAI semantic conventions as of opentelemetry-semantic-conventions 0.66b1 (Development);
                   github.com/open-telemetry/semantic-conventions-genai
    openllmetry    traceloop-sdk 0.62.4, opentelemetry-semantic-conventions-ai 0.5.1; before 0.53 without an operation's
                   name, with `llm.request.type` (0.49.8); github.com/traceloop/openllmetry
    http           HTTP client spans, semantic conventions 1.37 (stable), and the names of before 1.23;
                   opentelemetry.io/docs/specs/semconv/http. Only those towards the gateway or our proxy of it.
    evaluation     event gen_ai.evaluation.result, as genai: on an operation's span it is part of its outcome; another
                   span it makes an operation, `evaluate {name}`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Convention(NamedTuple):
    """How a convention says what a span is. *kinds*: its words, lower case → operation; "" → not one.

    *other* is the operation of words that are not listed: "" if they are none, `*` if the word itself is its name.
    """

    name: str
    kinds: dict[str, str]
    other: str = ""
    source: str = "otlp"


KINDS: Final[dict[str, Convention]] = {
    "langfuse.observation.type": Convention(
        "langfuse",
        {
            "tool": "execute_tool",
            "agent": "invoke_agent",
            "generation": "chat",
            "embedding": "embeddings",
            "retriever": "retrieval",
            "guardrail": "guardrail",
            "evaluator": "evaluate",
            "span": "step",
            "event": "event",
            "chain": "chain",
        },
        source="langfuse",
    ),
    "openinference.span.kind": Convention(
        "openinference",
        {
            "tool": "execute_tool",
            "agent": "invoke_agent",
            "llm": "chat",
            "embedding": "embeddings",
            "retriever": "retrieval",
            "reranker": "rerank",
            "guardrail": "guardrail",
            "evaluator": "evaluate",
        },
    ),
    "gen_ai.operation.name": Convention("genai", {"invoke_workflow": ""}, other="*"),
    "traceloop.span.kind": Convention("openllmetry", {"tool": "execute_tool", "agent": "invoke_agent"}),
    "llm.request.type": Convention(
        "openllmetry",
        {"chat": "chat", "completion": "text_completion", "embedding": "embeddings", "rerank": "rerank"},
    ),
}
"""The attribute that decides → its convention. The first that makes a span an operation counts, in this order."""

HTTP: Final = Convention("http", {})
EVALUATION: Final = Convention("evaluation", {})
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
EVALUATE: Final = "evaluate"
HTTP_CALL: Final = "http"

MODEL_OPERATIONS: Final = frozenset(["chat", "text_completion", "generate_content", "embeddings", "rerank"])
"""Operations whose subject is a model; of the others it is a tool, an agent, a data source or the span's name."""

FAILING_LABELS: Final = frozenset(["fail", "failed", "failing", "failure", "incorrect", "false", "bad", "unsafe"])
"""Labels of an evaluation that say that the operation went wrong; a score alone says it of none."""

FAILING_LEVELS: Final = frozenset(["error", "fatal", "critical"])
"""Langfuse levels of a failure. Any other level says that there is none, whatever the span's status."""


def _ranked(**facts: str) -> dict[str, tuple[str, int]]:
    return {key: (fact, rank) for fact, keys in facts.items() for rank, key in enumerate(keys.split())}


KEYS: Final[dict[str, tuple[str, int]]] = {
    **{key: (key, 0) for key in KINDS},
    **_ranked(
        tool="gen_ai.tool.name tool.name",
        agent="gen_ai.agent.name agent.name",
        entity="traceloop.entity.name",
        data_source="gen_ai.data_source.id",
        arguments="gen_ai.tool.call.arguments",
        input=(
            "langfuse.observation.input input.value traceloop.entity.input gen_ai.input.messages"
            " gen_ai.retrieval.query.text"
        ),
        output=(
            "langfuse.observation.output output.value traceloop.entity.output gen_ai.tool.call.result"
            " gen_ai.output.messages gen_ai.completion.0.content"
        ),
        model=(
            "langfuse.observation.model.name gen_ai.request.model llm.model_name embedding.model_name"
            " reranker.model_name gen_ai.response.model"
        ),
        provider="gen_ai.provider.name gen_ai.system llm.provider llm.system",
        parameters="llm.invocation_parameters langfuse.observation.model.parameters embedding.invocation_parameters",
        temperature="gen_ai.request.temperature",
        max_tokens="gen_ai.request.max_tokens",
        usage="langfuse.observation.usage_details",
        cost="langfuse.observation.cost_details gen_ai.usage.cost llm.cost.total",
        trace="langfuse.trace.name",
        input_tokens="gen_ai.usage.input_tokens gen_ai.usage.prompt_tokens llm.token_count.prompt",
        output_tokens="gen_ai.usage.output_tokens gen_ai.usage.completion_tokens llm.token_count.completion",
        tool_call_id="gen_ai.tool.call.id tool_call.id tool.id",
        task=(
            "session.id gen_ai.conversation.id traceloop.association.properties.session_id"
            " traceloop.association.properties.thread_id traceloop.association.properties.chat_id"
        ),
        staffer_id="user.id enduser.id traceloop.association.properties.user_id gen_ai.user llm.user",
        level="langfuse.observation.level",
        message="langfuse.observation.status_message exception.message",
        error_type="error.type exception.type",
        method="http.request.method http.method",
        url="url.full http.url",
        address="server.address net.peer.name",
        port="server.port net.peer.port",
        status="http.response.status_code http.status_code",
    ),
}
"""Attribute key → the fact that it tells, and its rank: of several that tell one fact the lowest rank counts."""

PARAMETERS: Final = ("temperature", "max_tokens", "top_p", "stream")
"""Of what a model is called with, what becomes features beside its name."""

OPERATION: Final = "gen_ai.operation.name"
CONVENTION: Final = "convention"
SERVICE: Final = "service.name"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
COST: Final = "gen_ai.usage.cost"
EXTRAS: Final = {
    "model": "gen_ai.request.model",
    "provider": "gen_ai.provider.name",
    "agent": "gen_ai.agent.name",
    "tool_call_id": "gen_ai.tool.call.id",
    "level": "langfuse.observation.level",
    "trace": "langfuse.trace.name",
    "status": "http.response.status_code",
}
"""Fact → its key in the op's `extra`, where also stand the operation, the convention, the service, tokens, and
evaluations as `evaluation.<name>`. The names are those of the gateway proxy's ops, whatever the span's convention."""

NUMBERS: Final = ("temperature", "max_tokens", "top_p")
"""Features that are numbers of ours: nothing in them to redact."""

PROMPT_KEYS: Final = ("llm.input_messages.", "gen_ai.prompt.")
"""Where messages are an attribute each, `<prefix><n>.…content`: the last of them is what was asked."""


class Kind(Enum):
    """How an operation was seen, as far as it matters to whether two saw the same one."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is Python, and takes longer than the look-up

    PROXY = "proxy"
    WRAPPER = "wrapper"
    HTTP = "http"
    TOOL = "tool"
    MODEL = "model"
    LANGFUSE = "langfuse"
    EVENT = "event"
    OTHER = "other"
    """An agent, a step, a correction: holds operations, or stands alone. The same only under the same span id."""


WITNESSES: Final[dict[Kind, int]] = {
    Kind.PROXY: 0,  # saw the bytes of the call itself
    Kind.WRAPPER: 1,  # made the call
    Kind.HTTP: 2,  # the agent's HTTP client
    Kind.TOOL: 3,  # what the agent made the call for
    Kind.MODEL: 3,
    Kind.LANGFUSE: 4,  # told of it
    Kind.EVENT: 5,  # told of it, often by hand
    Kind.OTHER: 6,
}
"""Who is believed: the lowest number. What the winner does not say is taken from the others; a failure that any of
them saw stays one, since an agent whose tool fails on a good answer has failed."""

INSIDE: Final[dict[Kind, frozenset[Kind]]] = {
    Kind.PROXY: frozenset([Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.WRAPPER: frozenset([Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.HTTP: frozenset([Kind.WRAPPER, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.EVENT: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
}
"""A child of this kind is the same operation as its parent span, where that is one of these kinds."""

BESIDE: Final[dict[Kind, frozenset[Kind]]] = {
    Kind.LANGFUSE: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL]),
    Kind.EVENT: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
}
"""A report of this kind is the same operation as one of these kinds under the same parent, at about the same time.
Others are told apart there: an instrumented call hands its own span on, so what is seen of it is inside, not beside."""

KIND_OF_SOURCE: Final[dict[str, Kind]] = {"mcp": Kind.PROXY, "scenario": Kind.EVENT}
KIND_OF_OPERATION: Final[dict[str, Kind]] = {
    **dict.fromkeys(MODEL_OPERATIONS, Kind.MODEL),
    "execute_tool": Kind.TOOL,
    "retrieval": Kind.TOOL,
    HTTP_CALL: Kind.HTTP,
}
"""By the operation in `extra`, which `conventions` writes. One of these with source `langfuse` is LANGFUSE."""
