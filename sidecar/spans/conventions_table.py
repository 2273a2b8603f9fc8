"""The table: which received spans are operations, what their attributes mean, and which witness of an operation wins.

Data only. `conventions` reads spans by `KINDS` and `KEYS`; `same_operation` decides by `WITNESSES`, `INSIDE`, `BESIDE`.

Each operation gets its name from the GenAI conventions (`execute_tool`, `chat`, …), whatever convention its span
follows, so an agent that changes its instrumentation keeps its history. Spans that only group others are no ops: their
failures are those of their children, and would count twice (OpenInference CHAIN, OpenLLMetry workflow and task, GenAI
invoke_workflow). All Langfuse types are operations, because each can be scored; there, every step without another type
is a `span`, and its level is its outcome.

Conventions, versions and sources:

    own            observer.op.*, schema version 1; `spans.attributes`. Exact: the op comes back as it was. Without
                   observer.op.op_id, only `NAMED` is read, beside another convention.
    langfuse       langfuse.observation.*, Python SDK 3.15, 4.18 and 5.0; langfuse.com/integrations/native/opentelemetry
    openinference  openinference-semantic-conventions 0.1.42; github.com/Arize-ai/openinference, spec/
    genai          GenAI semantic conventions as of opentelemetry-semantic-conventions 0.66b1 (Development);
                   github.com/open-telemetry/semantic-conventions-genai
    openllmetry    traceloop-sdk 0.62.4, opentelemetry-semantic-conventions-ai 0.5.1; before 0.53 spans had no operation
                   name but `llm.request.type` (0.49.8); github.com/traceloop/openllmetry
    http           HTTP client spans, semantic conventions 1.37 (stable), and the names used before 1.23;
                   opentelemetry.io/docs/specs/semconv/http. Only calls to the gateway or to our proxy.
    evaluation     event gen_ai.evaluation.result, as genai: on an operation's span it is part of the outcome; it makes
                   any other span an operation, `evaluate {name}`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class Convention(NamedTuple):
    """How a convention marks operations. *kinds*: its words in lower case → operation; "" → no operation.

    *other* is the operation for words not listed: "" for none, `*` if the word itself is the operation's name.
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
"""Deciding attribute → its convention. The first one, in this order, that makes the span an operation wins."""

HTTP: Final = Convention("http", {})
EVALUATION: Final = Convention("evaluation", {})
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
EVALUATE: Final = "evaluate"
HTTP_CALL: Final = "http"

MODEL_OPERATIONS: Final = frozenset(["chat", "text_completion", "generate_content", "embeddings", "rerank"])
"""Operations whose subject is a model. For others it is a tool, an agent, a data source or the span's name."""

FAILING_LABELS: Final = frozenset(["fail", "failed", "failing", "failure", "incorrect", "false", "bad", "unsafe"])
"""Evaluation labels that mean failure; a score alone never does."""

FAILING_LEVELS: Final = frozenset(["error", "fatal", "critical"])
"""Langfuse levels that mean failure. Any other level means success, whatever the span's status."""


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
"""Attribute key → (fact, rank): if several attributes give one fact, the lowest rank wins."""

NAMED_TEXTS: Final = (
    "task",
    "staffer_id",
    "role",
    "city",
    "state",
    "event_kind",
    "sig_hash",
    "task_class",
    "exposure_id",
)
NAMED: Final[dict[str, tuple[type, ...]]] = {**dict.fromkeys(NAMED_TEXTS, (str,)), "count": (int, float)}
"""Fields that any operation's span may name itself, as `observer.op.<field>`, and their types; so may it features, as
`observer.op.features.<name>`. They win over what the convention says; values of other types are ignored. Ids, times
and outcome cannot be named: those are the span's own."""

PARAMETERS: Final = ("temperature", "max_tokens", "top_p", "stream")
"""Model parameters that become features, besides the model's name."""

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
"""Fact → its key in the op's `extra`. `extra` also holds the operation, convention, service, tokens, and evaluations
as `evaluation.<name>`. The keys equal those of the gateway proxy's ops, whatever the span's convention."""

NUMBERS: Final = ("temperature", "max_tokens", "top_p")
"""Features that are always numbers, so they need no redaction."""

PROMPT_KEYS: Final = ("llm.input_messages.", "gen_ai.prompt.")
"""Prefixes of attributes that hold one message each, `<prefix><n>.…content`: the last message is the input."""


class Kind(Enum):
    """How an operation was witnessed, as far as it matters for matching witnesses of the same operation."""

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is in Python, slower than the look-up

    PROXY = "proxy"
    WRAPPER = "wrapper"
    HTTP = "http"
    TOOL = "tool"
    MODEL = "model"
    LANGFUSE = "langfuse"
    EVENT = "event"
    OTHER = "other"
    """An agent, a step, a correction: contains operations, or stands alone. Equal only by the same span id."""


WITNESSES: Final[dict[Kind, int]] = {
    Kind.PROXY: 0,  # saw the bytes of the call
    Kind.WRAPPER: 1,  # made the call
    Kind.HTTP: 2,  # the agent's HTTP client
    Kind.TOOL: 3,  # the reason for which the agent made the call
    Kind.MODEL: 3,
    Kind.LANGFUSE: 4,  # reports it
    Kind.EVENT: 5,  # reports it, often by hand
    Kind.OTHER: 6,
}
"""Precedence of witnesses: the lowest number wins. Missing values are taken from the others. A failure seen by any
of them remains a failure: if an agent's tool fails on a good response, the agent has failed. Its message is the first
that says more than a status, which is all that an HTTP client's span knows."""

INSIDE: Final[dict[Kind, frozenset[Kind]]] = {
    Kind.PROXY: frozenset([Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.WRAPPER: frozenset([Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.HTTP: frozenset([Kind.WRAPPER, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
    Kind.EVENT: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
}
"""A child span of this kind is the same operation as its parent span, if the parent is of one of these kinds."""

BESIDE: Final[dict[Kind, frozenset[Kind]]] = {
    Kind.LANGFUSE: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL]),
    Kind.EVENT: frozenset([Kind.PROXY, Kind.WRAPPER, Kind.HTTP, Kind.TOOL, Kind.MODEL, Kind.LANGFUSE]),
}
"""A report of this kind is the same operation as one of these kinds under the same parent at about the same time.
Other siblings are different operations: an instrumented call passes its span on, so its witnesses are children."""

KIND_OF_SOURCE: Final[dict[str, Kind]] = {"mcp": Kind.PROXY, "scenario": Kind.EVENT}
KIND_OF_OPERATION: Final[dict[str, Kind]] = {
    **dict.fromkeys(MODEL_OPERATIONS, Kind.MODEL),
    "execute_tool": Kind.TOOL,
    "retrieval": Kind.TOOL,
    HTTP_CALL: Kind.HTTP,
}
"""Kind by the operation that `conventions` writes to `extra`. With source `langfuse` it is LANGFUSE instead."""
