"""Agents that ask for advice over HTTP and then act, so that the observer has an effect to measure."""

from __future__ import annotations

from typing import Any

import httpx

from tests.peers.peers import waited_for


def advised(url: str, endpoint: str, tasks: int, token: str = "") -> None:
    """Run *tasks* tasks that ask for advice at *endpoint* and then act; before each, a person approves the entry.

    Approval is repeated, as each new version of an entry made from successes needs it.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:

        def entry() -> Any:
            found = client.get("/playbooks").json()["playbooks"]
            return next((one["playbook_id"] for one in found if one["endpoint"] == endpoint), None)

        for number in range(tasks):
            task = f"advised-{number}"
            approved = client.post(f"/playbooks/{waited_for(entry)}/approve")
            assert approved.status_code == 200, approved.text
            advice = client.get("/advice", params={"endpoint": endpoint, "task": task})
            assert advice.status_code == 200, advice.text
            event = {"endpoint": endpoint, "success": bool(number % 4), "task": task, "error": "now and then"}
            event["input_summary"] = "one more"
            if exposure := advice.json().get("exposure_id"):
                event["exposure_id"] = exposure
            assert client.post("/event", json=event).status_code == 200
