"""Recognises calls of language models in the formats of OpenAI, Anthropic and Ollama, whole or streamed.

Extracts `gen_ai.*` attributes, the text that the model wrote, and the tools that it requested.
Source: OpenTelemetry GenAI conventions (`semantic-conventions-genai`, in Development in 2026).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

Attributes = dict[str, Any]

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
TOOL_CALLS = "observer.llm.tool_calls"

_PATHS = (  # path suffix, provider, operation
    ("/chat/completions", "openai", "chat"),
    ("/responses", "openai", "chat"),
    ("/embeddings", "openai", "embeddings"),
    ("/completions", "openai", "text_completion"),
    ("/v1/messages", "anthropic", "chat"),
    ("/api/chat", "ollama", "chat"),
    ("/api/generate", "ollama", "text_completion"),
    ("/api/embed", "ollama", "embeddings"),
    ("/api/embeddings", "ollama", "embeddings"),
)
_ENDINGS = tuple(ending for ending, _, _ in _PATHS)
_REQUEST_ATTRIBUTES = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
_MOST_TEXT = 4096
_MOST_NAME = 256
_MOST_TOOLS = 32


class LlmCall:
    """One call of a model: its `attributes`, the `text` the model wrote, and the `tools` it requested, in order."""

    def __init__(self, provider: str, operation: str, asked: Mapping[str, Any]) -> None:
        model = asked.get("model")
        self.model = model[:_MOST_NAME] if isinstance(model, str) else ""
        self.operation = operation
        self.attributes: Attributes = {OPERATION: operation, PROVIDER: provider}
        if self.model:
            self.attributes[REQUEST_MODEL] = self.model
        options = asked.get("options")  # where Ollama has the request parameters
        for name, value in {**(options if isinstance(options, dict) else {}), **asked}.items():
            if name in _REQUEST_ATTRIBUTES and isinstance(value, int | float) and not isinstance(value, bool):
                self.attributes[_REQUEST_ATTRIBUTES[name]] = value
        self.asked_text = _last_input(asked)
        self.tools: list[str] = []
        self._reasons: list[str] = []
        self._text: list[str] = []
        self._text_size = 0
        self._cached = 0

    @property
    def text(self) -> str:
        """What the model wrote; of a long text the beginning."""
        return "".join(self._text)

    def read(self, messages: Iterable[Any]) -> None:
        """Read the answer: one message, or the messages of a stream in order."""
        for message in messages:
            if isinstance(message, dict):
                for part in _unwrapped(message):
                    self._message(part)
        if self._reasons:
            self.attributes[FINISH_REASONS] = self._reasons
        if self.tools:
            self.attributes[TOOL_CALLS] = ",".join(self.tools)

    def _message(self, part: Mapping[str, Any]) -> None:
        self._identity(part)
        usage = part.get("usage")
        if isinstance(usage, dict):
            self._usage(usage)
        self._count(INPUT_TOKENS, part.get("prompt_eval_count"))
        self._count(OUTPUT_TOKENS, part.get("eval_count"))
        self._reason(part.get("done_reason") or part.get("stop_reason"))
        for choice in _dicts(part.get("choices")):
            self._reason(choice.get("finish_reason"))
            self._chat_message(choice.get("message") or choice.get("delta") or choice)
        if isinstance(part.get("message"), dict):
            self._chat_message(part["message"])
        self._add_text(part.get("response"))
        self._content(part)

    def _identity(self, part: Mapping[str, Any]) -> None:
        for key, name in ((RESPONSE_MODEL, "model"), (RESPONSE_ID, "id")):
            value = part.get(name)
            if isinstance(value, str) and value:
                self.attributes.setdefault(key, value[:_MOST_NAME])

    def _usage(self, usage: Mapping[str, Any]) -> None:
        self._count(INPUT_TOKENS, usage.get("prompt_tokens"))
        self._count(OUTPUT_TOKENS, usage.get("completion_tokens"))
        self._count(OUTPUT_TOKENS, usage.get("output_tokens"))
        read, created = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
        self._count(CACHE_READ_TOKENS, read)
        self._count(CACHE_CREATION_TOKENS, created)
        fresh = usage.get("input_tokens")
        if _is_count(fresh):  # Anthropic's `input_tokens` excludes cached tokens; the conventions include them
            self._count(INPUT_TOKENS, fresh + sum(each for each in (read, created) if _is_count(each)))

    def _count(self, key: str, value: Any) -> None:
        if _is_count(value):
            self.attributes[key] = value  # a stream reports running totals: the last one counts

    def _reason(self, reason: Any) -> None:
        if isinstance(reason, str) and reason and len(self._reasons) < _MOST_TOOLS:
            self._reasons.append(reason[:_MOST_NAME])

    def _chat_message(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        self._content(message)
        self._add_text(message.get("text"))
        for call in _dicts(message.get("tool_calls")):
            function = call.get("function")
            self._tool(function.get("name") if isinstance(function, dict) else None)

    def _content(self, message: Mapping[str, Any]) -> None:
        """Read text and tool calls from `content`, `output` (OpenAI's Responses API), or one streamed block."""
        content = message.get("content")
        if isinstance(content, str):
            self._add_text(content)
        blocks = [*_dicts(content), *_dicts(message.get("output")), *_dicts([message.get("content_block")])]
        for block in blocks:
            self._add_text(block.get("text"))
            if block.get("type") in ("tool_use", "function_call", "server_tool_use", "mcp_call"):
                self._tool(block.get("name"))
            elif block.get("type") == "message":
                self._content(block)
        delta = message.get("delta")
        if isinstance(delta, dict):  # Anthropic's stream
            self._add_text(delta.get("text"))
            self._reason(delta.get("stop_reason"))
        elif isinstance(delta, str) and str(message.get("type", "")).endswith("output_text.delta"):
            self._add_text(delta)

    def _tool(self, name: Any) -> None:
        if isinstance(name, str) and name and len(self.tools) < _MOST_TOOLS:
            self.tools.append(name[:_MOST_NAME])

    def _add_text(self, text: Any) -> None:
        if isinstance(text, str) and self._text_size < _MOST_TEXT:
            self._text.append(text[:_MOST_TEXT])
            self._text_size += len(text)


def llm_call(path: str, asked: Any) -> LlmCall | None:
    """The model call that a request to *path* with body *asked* (decoded JSON) makes; None if it makes none."""
    if not isinstance(asked, dict):
        return None
    path = path.rstrip("/")
    if path.endswith(_ENDINGS):
        _, provider, operation = next(known for known in _PATHS if path.endswith(known[0]))
        return LlmCall(provider, operation, asked)
    if isinstance(asked.get("model"), str) and isinstance(asked.get("messages"), list):
        return LlmCall("_OTHER", "chat", asked)  # a chat request under a gateway's own path
    return None


def stream_error(messages: Iterable[Any], *, of_model: bool) -> Any:
    """The first error in a stream's messages that are not JSON-RPC; None if there is none.

    *of_model*: a model was called. Other streams may be of records, of some log, that have a type and a message too.
    """
    for message in messages:
        if isinstance(message, dict) and "jsonrpc" not in message:
            error = message.get("error") or _responses_error(message, of_model=of_model)
            if error:
                return error
    return None


def _responses_error(message: dict[str, Any], *, of_model: bool) -> Any:
    """The error that an event of OpenAI's Responses API tells: `response.failed`, or `error` with its own fields.

    Where no model is known to be called, it must have all that this API sends: its events are numbered, and an error's
    `param` is there even if it is null. Source: `ResponseErrorEvent` of OpenAI's specification.
    """
    kind = message.get("type")
    if not of_model and not _is_count(message.get("sequence_number")):
        return None
    if kind == "response.failed":
        response = message.get("response")
        return (response.get("error") if isinstance(response, dict) else None) or kind
    if kind == "error" and {"code", "message", *(() if of_model else ("param",))} <= message.keys():
        told = {name: message[name] for name in ("code", "message", "param") if message.get(name)}
        return told or kind
    return None


def _unwrapped(message: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the part of a streamed event that has the shape of a whole answer; else the event itself."""
    kind = message.get("type")
    if kind == "message_start" and isinstance(message.get("message"), dict):
        yield message["message"]
    elif isinstance(kind, str) and kind.startswith("response.") and isinstance(message.get("response"), dict):
        whole = dict(message["response"])
        whole.pop("output" if kind in _LAST_EVENTS else "usage", None)  # its output was already read from the pieces
        yield whole
    elif isinstance(kind, str) and kind == "response.output_item.done" and isinstance(message.get("item"), dict):
        item = message["item"]
        if item.get("type") == "function_call":
            yield {"output": [item]}
    else:
        yield message


def _last_input(asked: Mapping[str, Any]) -> str:
    """The text of the last message, prompt or input to the model."""
    messages = asked.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        said = messages[-1].get("content")
    else:
        said = asked.get("prompt") or asked.get("input")
    if isinstance(said, list):
        said = " ".join(text for part in _dicts(said) if isinstance(text := part.get("text"), str))
    return said[:_MOST_TEXT] if isinstance(said, str) else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
