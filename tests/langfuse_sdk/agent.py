"""An agent that is traced by the real Langfuse SDK, run in an environment of its own: `agent.py SCENARIO`.

Only `LANGFUSE_BASE_URL` and keys are set. Prints one line of JSON: the ids of what it did. Whatever the SDK warns of
goes to standard error, where the test looks for it.
"""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, no-any-return, misc, unused-ignore"
# ^ it is installed in environments of its own, never in the project's
# ruff: noqa: PLC0415, T201 - a program prints, and imports what only its environment has

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any


def observed() -> dict[str, str]:
    """`observe`, context managers, nested agents with tools, generations with usage, errors, scores of every type."""
    from langfuse import Langfuse, observe, propagate_attributes

    client: Any = Langfuse()
    assert client.auth_check()
    told: dict[str, str] = {}

    @observe(as_type="tool")
    def find_workers(role: str, count: int) -> dict[str, Any]:
        told["tool"] = client.get_current_observation_id()
        if count > 10:
            raise ValueError(f"only 4 workers are {role} drivers")
        return {"workers": ["Ann", "Bo"], "role": role}

    @observe()
    def plan(week: int) -> str:
        return f"week {week}"

    def step(kind: str, name: str, given: Any) -> Any:
        return client.start_as_current_observation(as_type=kind, name=name, input=given)

    with propagate_attributes(user_id="ann", session_id="shift-7", trace_name="staffing"):
        with step("agent", "dispatcher", {"week": 31}) as agent:
            told["trace"], told["agent"] = agent.trace_id, agent.id
            find_workers("forklift", 2)
            with step("agent", "recruiter", {"role": "forklift"}):
                with contextlib.suppress(ValueError):
                    find_workers("forklift", 40)
                with step("tool", "post_advert", {"city": "Toledo"}) as tool:
                    tool.update(level="ERROR", status_message="board is closed")
            plan(31)
            with step("generation", "answer", "Who can drive a forklift?") as generation:
                told["generation"] = generation.id
                generation.update(
                    model="small-chat",
                    output="Ann and Bo can.",
                    usage_details={"input": 21, "output": 9},
                    cost_details={"input": 0.01, "output": 0.02, "total": 0.03},
                )
            for kind in ("retriever", "evaluator", "guardrail", "chain", "embedding"):
                with step(kind, f"a_{kind}", "forklift in Toledo") as found:
                    found.update(output=["open"])
            client.create_event(name="shift_opened", input={"city": "Toledo"})
            agent.update(output="done")
            agent.score(name="helpful", value=1, data_type="BOOLEAN", comment="quick")
        of = {"trace_id": told["trace"]}
        client.create_score(**of, observation_id=told["generation"], name="accuracy", value=0.3, comment="made up")
        client.create_score(**of, observation_id=told["generation"], name="tone", value="rude", data_type="CATEGORICAL")
        client.create_score(**of, observation_id=told["agent"], name="resolved", value=0, data_type="BOOLEAN")
        for data_type in ("TEXT", "CORRECTION"):
            client.create_score(
                **of,
                observation_id=told["generation"],
                name="output" if data_type == "CORRECTION" else "note",
                value="Ann can." if data_type == "CORRECTION" else "too short",
                data_type=data_type,
            )
    client.flush()
    client.shutdown()
    return told


def main() -> None:
    """Do it, and say what was done."""
    print(json.dumps({"observed": observed}[sys.argv[1]]()))


if __name__ == "__main__":
    main()
