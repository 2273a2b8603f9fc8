"""Agents that trace themselves, none of our code in them: their operations are the right ops, and each is one.

Their spans reach the collector as they were sent. `make test-agents` installs them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.agents.agents import HERE, INSTALLED, watched
from tests.observers import client

NODE = shutil.which("node") or ""
CALL = "/v1/chat/completions"

pytestmark = pytest.mark.timeout(300)  # an agent's imports take seconds of processor time, minutes on a busy machine

needs_node = pytest.mark.skipif(
    not NODE or not (INSTALLED / "node_modules").is_dir(), reason="not installed: make test-agents (needs Node.js)"
)


def python(environment: str = "venv") -> str:
    """The interpreter of an agents' *environment*; skips where it is not there."""
    found = INSTALLED / environment / "bin" / "python"
    if not found.exists():
        pytest.skip("not installed: make test-agents")
    return str(found)


@needs_node
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
async def test_a_javascript_agent_is_observed_with_one_variable(tmp_path: Path, protocol: str) -> None:
    """By each protocol: agent, tool and model call are one op each, whoever saw them."""
    async with watched(tmp_path) as seen:
        await seen.run(NODE, "agent.mjs", protocol, **seen.otel(protocol))
        ops = await seen.ops(3)
        sent, arrived = await seen.passed_on()
        assert len(sent) == 4  # the HTTP client's among them
        assert arrived == sent
        async with client(seen.observer) as http:
            stats = (await http.get("/stats")).json()
    assert set(ops) == {"invoke_agent staffing", "execute_tool find_workers", CALL}
    tool, call = ops["execute_tool find_workers"], ops[CALL]
    assert (tool.success, tool.error, tool.features) == (False, "nobody is free", {"role": "forklift", "count": 2})
    assert ops["invoke_agent staffing"].task == "js-1"
    assert tool.trace_id == call.trace_id == ops["invoke_agent staffing"].trace_id
    assert (stats["total"], stats["failures"]) == (3, 1)
    assert (call.source, call.success, (call.extra or {})["gen_ai.request.model"]) == ("mcp", True, "small-chat")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("instrumentation", ["openai_v2", "openinference", "openllmetry"])
async def test_a_python_agents_call_is_one_op(tmp_path: Path, instrumentation: str, protocol: str) -> None:
    """The proxy, the HTTP client and the model's instrumentation tell of one call."""
    async with watched(tmp_path) as seen:
        await seen.run(python(), str(HERE / "agent.py"), instrumentation, protocol, **seen.otel(protocol))
        (call,) = (await seen.ops(1)).values()
        sent, arrived = await seen.passed_on()
        assert arrived == sent
        assert len(sent) == (2 if instrumentation == "openllmetry" else 3)  # it traces no HTTP clients
    assert (call.endpoint, call.source, call.success) == (CALL, "mcp", True)
    assert (call.extra or {})["gen_ai.request.model"] == "small-chat"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_an_agent_on_traceloops_sdk_is_observed_with_one_variable(tmp_path: Path, protocol: str) -> None:
    """Its agent, tools and model call are one op each, of one trace; its workflow and task are none."""
    async with watched(tmp_path) as seen:
        command = (python("traceloop"), str(HERE / "agent_traceloop.py"))
        await seen.run(*command, **seen.traceloop(protocol))
        ops = await seen.ops(4)
        sent, arrived = await seen.passed_on()
        assert len(sent) == 7  # with the workflow, the task, and the HTTP client's of the tool that calls
        assert arrived == sent
        async with client(seen.observer) as http:
            stats = (await http.get("/stats")).json()
    assert set(ops) == {"invoke_agent staffing", "execute_tool find_workers", "/shifts", CALL}
    agent, tool, call = ops["invoke_agent staffing"], ops["execute_tool find_workers"], ops[CALL]
    assert (tool.success, tool.error, tool.features) == (False, "nobody is free", {"role": "forklift", "count": 2})
    assert (agent.success, agent.features, tool.parent_span_id) == (True, {"city": "Toledo"}, agent.span_id)
    assert (call.success, (call.extra or {})["gen_ai.request.model"]) == (True, "small-chat")
    assert (call.source, ops["/shifts"].source, ops["/shifts"].success) == ("mcp", "mcp", True)
    assert {(op.trace_id, op.task, op.staffer_id) for op in ops.values()} == {(agent.trace_id, "week-31", "ann")}
    assert (stats["total"], stats["failures"]) == (4, 1)
    # One more report of the model call, by the SDK; two of the tool's call, by its span and its HTTP client's.
    assert stats["one_operation"]["absorbed"] + stats["amendments"]["taken"] == 3


async def test_a_call_told_of_by_all_is_counted_once(tmp_path: Path) -> None:
    """Instrumented, through the proxy, with a Langfuse observation and a scenario event of it: one in `/stats`."""
    async with watched(tmp_path) as seen:
        told = f"http://127.0.0.1:{seen.observer.port}"
        command = (python(), str(HERE / "agent.py"), "openai_v2", "http/protobuf")
        await seen.run(*command, OBSERVER=told, **seen.otel("http/protobuf"))
        (call,) = (await seen.ops(1)).values()
        async with client(seen.observer) as http:
            stats = (await http.get("/stats")).json()
    assert (stats["total"], stats["by_source"], stats["failures"]) == (1, {"mcp": 1}, 0)
    assert (call.endpoint, call.role, call.event_kind) == (CALL, "forklift", "ask")
    # The HTTP client's span, the model's, Langfuse's and the event: each was one more report of the call.
    assert stats["one_operation"]["absorbed"] + stats["amendments"]["taken"] == 4
