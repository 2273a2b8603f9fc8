"""Calls of language models and MCP tools through the proxy: model, tokens and tools are known, from streams too."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from sidecar.gateway.llm_usage import llm_call
from tests.observers import settled
from tests.proxied import Message, exchange, proxied, proxy_port, raw_gateway, request

_TOOL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Boise"}'}}
_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
_CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-2024-08-06",
    "usage": _USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello there"}}],
}


def _chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    return {**head, "choices": [choice], **more}


def read(path: str, asked: dict[str, Any], *messages: Any) -> dict[str, Any]:
    """The attributes of a call, and under `text` what was written."""
    call = llm_call(path, asked)
    assert call is not None
    call.read(messages)
    return {**call.attributes, "text": call.text}


def test_openai_bodies() -> None:
    """Chat, whole and streamed, with tools; embeddings; responses."""
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "max_tokens": 9}
    whole = read("/v1/chat/completions", asked, _CHAT)
    assert whole == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "text": "Hello there",
    }
    tool = {"index": 0, **_TOOL}
    stream = [_chunk({"content": "Hel"}), _chunk({"content": "lo"}), _chunk({"tool_calls": [tool]})]
    stream += [_chunk({}, finish_reason="tool_calls"), {"choices": [], "usage": _USAGE}]
    streamed = read("/openai/v1/chat/completions/", asked, *stream)
    assert (streamed["text"], streamed["observer.llm.tool_calls"]) == ("Hello", "get_weather")
    assert (streamed["gen_ai.usage.output_tokens"], streamed["gen_ai.response.finish_reasons"]) == (7, ["tool_calls"])
    vectors = read("/v1/embeddings", {"model": "e", "input": "x"}, {"model": "e", "usage": {"prompt_tokens": 3}})
    assert (vectors["gen_ai.operation.name"], vectors["gen_ai.usage.input_tokens"]) == ("embeddings", 3)
    completed = {
        "id": "r",
        "model": "m",
        "usage": {"input_tokens": 5, "output_tokens": 2},
        "output": [{"type": "message"}],
    }
    events = [
        {"type": "response.output_text.delta", "delta": "Hey"},
        {"type": "response.output_item.done", "item": {"type": "function_call", "name": "find"}},
        {"type": "response.completed", "response": completed},
    ]
    responses = read("/v1/responses", {"model": "m", "input": "x"}, *events)
    assert (responses["text"], responses["observer.llm.tool_calls"], responses["gen_ai.usage.input_tokens"]) == (
        "Hey",
        "find",
        5,
    )


def test_anthropic_bodies() -> None:
    """Whole and streamed; cached tokens count as input."""
    asked = {
        "model": "claude",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }
    content = [{"type": "text", "text": "Sure"}, {"type": "tool_use", "id": "t", "name": "search", "input": {}}]
    usage = {"input_tokens": 4, "cache_read_input_tokens": 100, "output_tokens": 6}
    message = {"type": "message", "id": "msg", "model": "claude-3", "content": content, "stop_reason": "tool_use"}
    whole = read("/v1/messages", asked, {**message, "usage": usage})
    assert (whole["gen_ai.usage.input_tokens"], whole["gen_ai.usage.output_tokens"]) == (104, 6)
    assert (whole["observer.llm.tool_calls"], whole["text"]) == ("search", "Sure")
    streamed = read(
        "/v1/messages",
        asked,
        {
            "type": "message_start",
            "message": {**message, "content": [], "stop_reason": None, "usage": {"input_tokens": 4}},
        },
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Su"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "re"}},
        {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "search"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 6}},
    )
    assert (streamed["text"], streamed["observer.llm.tool_calls"]) == ("Sure", "search")
    assert (streamed["gen_ai.usage.input_tokens"], streamed["gen_ai.usage.output_tokens"]) == (4, 6)
    assert streamed["gen_ai.response.finish_reasons"] == ["tool_use"]


def test_ollama_bodies() -> None:
    """Lines of JSON; counts come with the last one; options hold the temperature."""
    asked = {"model": "qwen2.5", "messages": [], "options": {"temperature": 0.1}}
    last = {"model": "qwen2.5", "done": True, "done_reason": "stop", "prompt_eval_count": 20, "eval_count": 9}
    lines = [
        {"model": "qwen2.5", "message": {"role": "assistant", "content": part}, "done": False} for part in ("A", "b")
    ]
    chat = read("/api/chat", asked, *lines, last)
    assert (chat["text"], chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == ("Ab", 20, 9)
    assert (chat["gen_ai.provider.name"], chat["gen_ai.request.temperature"]) == ("ollama", 0.1)
    generate = read("/api/generate", {"model": "q", "prompt": "x"}, {"model": "q", "response": "yes", "eval_count": 1})
    assert (generate["text"], generate["gen_ai.operation.name"]) == ("yes", "text_completion")


def test_odd_bodies_say_nothing() -> None:
    """What is not of the form is passed over, whatever it is."""
    assert llm_call("/tools/fill", {"role": "cook"}) is None
    assert llm_call("/v1/chat/completions", None) is None
    odd: list[Any] = [
        None,
        1,
        "x",
        [],
        {"choices": 1},
        {"usage": []},
        {"usage": {"prompt_tokens": "many"}},
        {"message": 5},
    ]
    odd += [{"choices": [{"message": {"tool_calls": [{"function": None}], "content": [1, None]}}]}, {"model": 7}]
    assert read("/v1/chat/completions", {"model": 3, "messages": [7]}, *odd)["text"] == ""


async def _openai(asked: Message, writer: asyncio.StreamWriter) -> bool:
    """A small server of OpenAI's chat."""
    body = json.loads(asked.body)
    if not body.get("stream"):
        answer = json.loads(json.dumps(_CHAT))
        if body.get("tools"):
            answer["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [_TOOL]}
        data = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        return True
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    parts = [
        _chunk({"role": "assistant", "content": "Hel"}),
        _chunk({"content": "lo"}),
        _chunk({}, finish_reason="stop"),
    ]
    parts.append({**_chunk({}), "choices": [], "usage": _USAGE})
    for part in [*map(json.dumps, parts), "[DONE]"]:
        event = f"data: {part}\n\n".encode()
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    return True


async def test_the_openai_client_works_through_it(tmp_path: Path) -> None:
    """Chat, streaming and tools with the official client; the ops have model, tokens and tools."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = _openai
        url = f"http://127.0.0.1:{proxy_port(running)}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-" + "a" * 40, max_retries=0) as client:
            said = [{"role": "user", "content": "Hi"}]
            whole = await client.chat.completions.create(model="gpt-4o", messages=said)
            assert whole.choices[0].message.content == "Hello there"
            stream = await client.chat.completions.create(
                model="gpt-4o", messages=said, stream=True, stream_options={"include_usage": True}
            )
            pieces = [part.choices[0].delta.content or "" async for part in stream if part.choices]
            assert "".join(pieces) == "Hello"
            tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
            asked = await client.chat.completions.create(model="gpt-4o", messages=said, tools=[tool])
            assert asked.choices[0].message.tool_calls[0].function.name == "get_weather"
        await settled(running, 3)
        ops = running.ring.ops()
    for op in ops:
        assert (op.endpoint, op.success, op.extra is not None) == ("/v1/chat/completions", True, True)
        assert op.extra is not None
        assert op.extra["gen_ai.request.model"] == "gpt-4o"
        assert (op.extra["gen_ai.usage.input_tokens"], op.extra["gen_ai.usage.output_tokens"]) == (11, 7)
    assert [op.output_summary for op in ops] == [
        "answer: Hello there...",
        "answer: Hello...",
        "answer: asks for get_weather...",
    ]
    assert ops[2].extra is not None
    assert ops[2].extra["observer.llm.tool_calls"] == "get_weather"
    assert "sk-aaa" not in (tmp_path / "data" / "ops.jsonl").read_text()


_RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-x", "output": [], "error": None}
_SPENT = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
_RESPONSES: dict[str, tuple[dict[str, Any], str | None, tuple[int, int] | None]] = {
    "completes": ({"type": "response.completed", "response": {**_RESPONSE, "usage": _SPENT}}, None, (5, 7)),
    "is cut": ({"type": "response.incomplete", "response": {**_RESPONSE, "usage": _SPENT}}, None, (5, 7)),
    "fails": (
        {
            "type": "response.failed",
            "response": {**_RESPONSE, "usage": _SPENT, "error": {"code": "server_error", "message": "no luck"}},
        },
        '{"code":"server_error","message":"no luck"}',
        (5, 7),
    ),
    "fails without a reason": (
        {"type": "response.failed", "response": {**_RESPONSE, "usage": None}},
        "response.failed",
        None,
    ),
    "breaks": (
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "param": None},
        '{"code":"rate_limit_exceeded","message":"slow down"}',
        None,
    ),
}
"""Model → (last event of its stream, error of the op, tokens in and out)."""


async def _responses(asked: Message, writer: asyncio.StreamWriter) -> bool:
    """A small server of OpenAI's Responses API: the model names the end."""
    last = _RESPONSES[json.loads(asked.body)["model"]][0]
    parts: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**_RESPONSE, "usage": None}},
        {"type": "response.output_text.delta", "delta": "Hel"},
        last,
    ]
    events = "".join(f"event: {part['type']}\ndata: {json.dumps(part)}\n\n" for part in parts).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(events) + events)
    return True


async def test_the_last_event_of_a_responses_stream_decides(tmp_path: Path) -> None:
    """With the official client: what failed is a failure, what was cut short is none, and tokens of both count."""
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = _responses
        url = f"http://127.0.0.1:{proxy_port(running)}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="sk-" + "a" * 40, max_retries=0) as client:
            for model, (last, _, _) in _RESPONSES.items():
                stream = await client.responses.create(model=model, input="Hi", stream=True)
                assert [event.type async for event in stream][-1] == last["type"]
        await settled(running, len(_RESPONSES))
        ops = running.ring.ops()
    for op, (model, (_, error, tokens)) in zip(ops, _RESPONSES.items(), strict=True):
        extra = op.extra or {}
        assert (extra["gen_ai.request.model"], op.success, op.error) == (model, error is None, error)
        spent = (extra.get("gen_ai.usage.input_tokens"), extra.get("gen_ai.usage.output_tokens"))
        assert spent == (tokens or (None, None)), model


@pytest.mark.parametrize(
    ("target", "more", "error"),
    [
        ("/alarms", {}, None),
        (
            "/v1/responses/resp_1?stream=true",
            {"param": None, "sequence_number": 3},
            '{"code":"E42","message":"disk full"}',
        ),
    ],
)
async def test_records_of_type_error_are_what_was_asked_for(
    tmp_path: Path, target: str, more: dict[str, Any], error: str | None
) -> None:
    """A stream of alarms is a success; one of a model's answer that is taken up later, which asks nothing, is not."""
    records = [{"type": "info"}, {"type": "error", "code": "E42", "message": "disk full", **more}]
    body = "".join(f"{json.dumps(each)}\n" for each in records).encode()

    async def answering(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        return True

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answering
        assert (await exchange(proxy_port(running), request("GET", target))).body == body
        await settled(running, 1)
        (op,) = running.ring.ops()
    assert (op.success, op.error) == (error is None, error)


class _Server(uvicorn.Server):
    """One that leaves signals to pytest, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a port of its own."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await server.listening.wait()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.mark.filterwarnings("ignore")  # those of the MCP SDK are not ours
async def test_the_mcp_client_works_through_it(tmp_path: Path) -> None:
    """The SDK's streamable HTTP client and server: tools are named in the ops, a failing tool is a failure."""
    pytest.importorskip("mcp", reason="the MCP SDK is not installed")
    server, connect = _mcp()

    async with served(server) as url, proxied(tmp_path, url) as running:
        async with connect(f"http://127.0.0.1:{proxy_port(running)}/mcp") as session:
            await session.initialize()
            assert {tool.name for tool in (await session.list_tools()).tools} == {"add", "fail"}
            assert (await session.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"
            await session.call_tool("fail", {"why": "rain"})
        await settled(running, 5)
        ops = {op.endpoint: op for op in running.ring.ops()}
    add, fail = ops["/mcp tools/call add"], ops["/mcp tools/call fail"]
    assert (add.success, add.features, add.output_summary) == (True, {"a": 1, "b": 2}, "3")
    assert add.extra is not None
    assert add.extra["gen_ai.tool.name"] == "add"
    assert (fail.success, fail.error_type, "fail" in (fail.error or "")) == (False, "tool_error", True)
    assert "/mcp initialize" in ops


def _mcp() -> tuple[Any, Any]:
    """An MCP server with two tools, and how to connect a client session; over versions of the SDK."""
    mcp = importlib.import_module("mcp")  # not installed where types are checked
    try:
        server = importlib.import_module("mcp.server.fastmcp").FastMCP("small")
    except ImportError:
        server = importlib.import_module("mcp.server.mcpserver").MCPServer("small")
    streamable_http = importlib.import_module("mcp.client.streamable_http")

    @server.tool()  # type: ignore[untyped-decorator]  # the SDK is not there for mypy
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @server.tool()  # type: ignore[untyped-decorator]  # likewise
    def fail(why: str) -> str:
        """Fail."""
        raise ValueError(why)

    open_client = getattr(streamable_http, "streamable_http_client", None) or streamable_http.streamablehttp_client

    @contextlib.asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Any]:
        async with open_client(url) as streams, mcp.ClientSession(streams[0], streams[1]) as session:
            yield session

    return server.streamable_http_app(), connect
