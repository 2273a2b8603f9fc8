"""An agent that is traced by the Python SDK 2, which sends create and update events: `agent_v2.py`. As `agent.py`."""

# mypy: ignore-errors
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import contextlib
import json

from langfuse import Langfuse
from langfuse.decorators import langfuse_context, observe


@observe(name="find_workers")
def find_workers(role: str, count: int) -> dict[str, object]:
    if count > 10:
        raise ValueError(f"only 4 workers are {role} drivers")
    return {"workers": ["Ann", "Bo"], "role": role}


@observe(name="plan")
def plan(week: int) -> str:
    find_workers("forklift", 2)
    with contextlib.suppress(ValueError):
        find_workers("forklift", 40)
    langfuse_context.score_current_observation(name="helpful", value=0, data_type="BOOLEAN")
    return f"week {week}"


def main() -> None:
    """Do it, and say what was done."""
    client = Langfuse()
    assert client.auth_check()
    trace = client.trace(name="staffing", user_id="ann", session_id="shift-7", input={"week": 31})
    span = trace.span(name="dispatch", input={"week": 31})
    generation = span.generation(name="answer", model="small-chat", input="Who can drive a forklift?")
    generation.end(output="Ann and Bo can.", usage={"input": 21, "output": 9})
    span.event(name="shift_opened", input={"city": "Toledo"})
    span.update(metadata={"seen": "by nobody"})
    span.end(output="done")
    generation.score(name="accuracy", value=0.3, comment="made up")
    trace.score(name="resolved", value=0, data_type="BOOLEAN")
    trace.update(output="done")
    client.flush()
    client.shutdown()
    plan(31)
    langfuse_context.flush()
    print(json.dumps({"trace": trace.id, "agent": span.id, "generation": generation.id}))


if __name__ == "__main__":
    main()
