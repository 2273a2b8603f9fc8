"""The real Langfuse SDKs, unmodified, with an observer as their server: every observation is the right op, once.

The newest Python SDK is among what the tests use. The others have environments of their own, which `make test-langfuse`
sets up and names in `OBSERVER_TEST_LANGFUSE`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from langfuse.api import LangfuseAPI

from sidecar.clock import rfc3339_ms
from sidecar.pipeline.observer import Observer
from tests.langfuse_server import KEYS, Store, given_score, langfuse_server, observation
from tests.observers import client, observer
from tests.test_langfuse_doors import ops, written

HERE = Path(__file__).parent
ENVIRONMENTS = os.environ.get("OBSERVER_TEST_LANGFUSE", "")
NOT_SET_UP = pytest.mark.skipif(not ENVIRONMENTS, reason="`make test-langfuse` sets these SDKs up")


class Said(NamedTuple):
    """What an agent printed, and what its SDK said beside that."""

    told: dict[str, str]
    warnings: str


async def run(running: Observer, *command: str) -> Said:
    """Run an agent that knows nothing of the observer but its address."""
    url = f"http://127.0.0.1:{running.port}"
    address = dict.fromkeys(["LANGFUSE_BASE_URL", "LANGFUSE_HOST", "LANGFUSE_BASEURL"], url)
    env = {**os.environ, **address, "LANGFUSE_PUBLIC_KEY": "pk-lf-here", "LANGFUSE_SECRET_KEY": "in"}
    env["LANGFUSE_TIMEOUT"] = "60"  # seconds, not 5: what an SDK says of a slow machine would count as a warning
    env |= {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return Said(json.loads(out), err.decode())


def latest(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ops that no other amends."""
    amended = {op_id for op in made for op_id in (op.get("amends") or "").split()}
    return [op for op in made if op["op_id"] not in amended]


def settings(tmp_path: Path) -> dict[str, str]:
    """Tokens are asked for, and a number may fail."""
    (tmp_path / "tokens").write_text("in ingest\nout read\n")
    return {"OBSERVER_TOKEN_FILE": str(tmp_path / "tokens"), "OBSERVER_LANGFUSE_FAILING": "accuracy<0.5"}


@pytest.mark.parametrize(
    "python",
    [
        pytest.param(sys.executable, id="newest"),
        *(pytest.param(f"{ENVIRONMENTS}/py{major}/bin/python", id=f"{major}", marks=NOT_SET_UP) for major in (3, 4, 5)),
    ],
)
async def test_the_python_sdk(tmp_path: Path, python: str) -> None:
    """`observe`, context managers, nested agents and tools, a generation with usage, errors, every type of score."""
    async with observer(tmp_path, **settings(tmp_path)) as running:
        told, warnings = await run(running, python, str(HERE / "agent.py"), "observed")
        await written(running, tmp_path, 19)
        async with client(running, auth=("pk", "out")) as http:
            stats = (await http.get("/stats")).json()
    assert warnings == ""
    made = ops(tmp_path)
    plain = [op for op in made if not op.get("amends")]
    assert Counter(op["endpoint"] for op in plain) == {
        "invoke_agent dispatcher": 1,
        "invoke_agent recruiter": 1,
        "execute_tool find_workers": 2,
        "execute_tool post_advert": 1,
        "step plan": 1,
        "chat small-chat": 1,
        "retrieval a_retriever": 1,
        "evaluate a_evaluator": 1,
        "guardrail a_guardrail": 1,
        "chain a_chain": 1,
        "embeddings": 1,
        "event shift_opened": 1,
        "overseer:langfuse": 1,
    }
    errors = {op["error"] for op in plain if not op["success"]}
    assert errors == {"only 4 workers are forklift drivers", "board is closed"}
    assert {op["trace_id"] for op in made} == {told["trace"]}
    assert {(op["task"], op.get("staffer_id")) for op in made if op["source"] == "langfuse"} == {("shift-7", "ann")}
    parents = {op["span_id"]: op.get("parent_span_id") for op in plain}
    assert parents[told["generation"]] == told["agent"]
    assert parents[told["agent"]] is None
    answer = next(op for op in plain if op["span_id"] == told["generation"])
    assert answer["features"] == {"model": "small-chat"}
    usage = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.cost", "langfuse.trace.name")
    assert [answer["extra"][name] for name in usage] == [21, 9, 0.03, "staffing"]
    judged = {op["endpoint"]: op for op in latest(made) if op.get("amends")}
    assert judged["chat small-chat"]["error"] == "accuracy: 0.3: made up"
    assert judged["invoke_agent dispatcher"]["error"] == "resolved: false"
    said = judged["chat small-chat"]["extra"]
    assert [said[f"evaluation.{name}"] for name in ("accuracy", "tone", "note")] == [0.3, "rude", "too short"]
    correction = next(op for op in plain if op["source"] == "overseer_correction")
    assert (correction["correction"], correction["parent_span_id"]) == ("Ann can.", told["generation"])
    assert (stats["langfuse"]["invalid"], stats["langfuse"]["scores_waiting"], len(made)) == (0, 0, 19)


@NOT_SET_UP
@pytest.mark.parametrize(("kind", "script"), [("py2", "agent_v2.py"), ("js3", "agent_v3.cjs")])
async def test_older_sdks_send_events(tmp_path: Path, kind: str, script: str) -> None:
    """Create and update events, in whatever batches they go: one op each, with what the trace says."""
    command = [f"{ENVIRONMENTS}/py2/bin/python", str(HERE / script)] if kind == "py2" else node(kind, script)
    async with observer(tmp_path, **settings(tmp_path)) as running:
        told, warnings = await run(running, *command)
        await written(running, tmp_path, 7 if kind == "py2" else 5)
    assert warnings == ""
    made = ops(tmp_path)
    plain = {op["endpoint"]: op for op in made if not op.get("amends") and op.get("task") == "shift-7"}
    assert set(plain) == {"step dispatch", "chat small-chat", "event shift_opened"}
    trace_id = told["trace"].replace("-", "")
    span = plain["step dispatch"]
    assert {op["trace_id"] for op in plain.values()} == {trace_id}
    assert {op["parent_span_id"] for op in plain.values() if op is not span} == {span["span_id"]}
    assert plain["chat small-chat"]["extra"]["gen_ai.usage.input_tokens"] == 21
    judged = {op["endpoint"]: op["error"] for op in latest(made) if op.get("amends")}
    assert judged == {"chat small-chat": "accuracy: 0.3: made up", "step dispatch": "resolved: false"}
    if kind == "py2":
        workers = [op for op in made if op["endpoint"] == "step find_workers"]
        assert [op.get("error") for op in workers] == [None, "only 4 workers are forklift drivers"]


@NOT_SET_UP
async def test_the_javascript_sdk(tmp_path: Path) -> None:
    """Spans as OTLP in JSON, scores as events."""
    async with observer(tmp_path, **settings(tmp_path)) as running:
        told, warnings = await run(running, *node("js5", "agent.mjs"))
        await written(running, tmp_path, 8)
    assert warnings == ""
    made = ops(tmp_path)
    plain = {op["endpoint"]: op for op in made if not op.get("amends")}
    assert (set(plain), len(made)) == (
        {
            "invoke_agent dispatcher",
            "execute_tool find_workers",
            "execute_tool post_advert",
            "chat small-chat",
            "event shift_opened",
            "overseer:langfuse",
        },
        8,
    )
    assert plain["execute_tool post_advert"]["error"] == "board is closed"
    assert plain["chat small-chat"]["parent_span_id"] == plain["invoke_agent dispatcher"]["span_id"] == told["agent"]
    assert {op["task"] for op in made} == {"shift-7"}
    judged = {op["endpoint"]: op["error"] for op in latest(made) if op.get("amends")}
    assert judged == {"chat small-chat": "accuracy: 0.3: made up", "invoke_agent dispatcher": "resolved: false"}


def node(kind: str, script: str) -> list[str]:
    """How to run *script* with the packages of one environment: Node looks for them beside it."""
    beside = shutil.copy(HERE / script, Path(ENVIRONMENTS) / kind)
    return ["node", str(beside)]


async def test_the_stand_in_server_answers_as_the_sdk_reads_it() -> None:
    """What the tests pull from is read page by page by Langfuse's own client, whose types check every field."""
    now = rfc3339_ms(time.time_ns() - 60 * 10**9)
    store = Store()
    store.observations = [observation(number, now) for number in range(1, 6)]
    store.given_scores = [given_score(1, now, of=1), given_score(2, now, of=2, value=0.5, dataType="NUMERIC")]
    async with langfuse_server(store) as server:
        connection = httpx.Client(trust_env=False, timeout=30)
        api = LangfuseAPI(
            httpx_client=connection,
            base_url=server.url,
            username=KEYS[0],
            password=KEYS[1],
            x_langfuse_sdk_name="python",
            x_langfuse_sdk_version="5",
            x_langfuse_public_key=KEYS[0],
        )
        since = datetime.now(UTC) - timedelta(hours=1)

        def read() -> tuple[list[str], list[tuple[Any, str]]]:
            ids: list[str] = []
            cursor: str | None = None
            while cursor is not None or not ids:
                page = api.observations.get_many(
                    from_start_time=since, to_start_time=since + timedelta(hours=2), limit=2, cursor=cursor
                )
                ids += [row.id for row in page.data]
                cursor = page.meta.cursor
            scores = api.scores.get_many(from_timestamp=since, to_timestamp=since + timedelta(hours=2))
            return ids, [(each.value, each.data_type) for each in scores.data]

        with connection:
            ids, scores = await asyncio.to_thread(read)
    assert sorted(ids) == [f"{number:016x}" for number in range(1, 6)]
    assert sorted(scores, key=str) == [(0.5, "NUMERIC"), (False, "BOOLEAN")]
