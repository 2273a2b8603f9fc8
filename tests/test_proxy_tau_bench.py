"""Real agent traffic by plain HTTP through the proxy: the same ops as through the wrapper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from sidecar.gateway.features import request_features
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from tests.observers import observer, settled, stand_in
from tests.proxied import proxied, proxy_port
from tests.test_tau_bench import as_recorded, pytestmark, recorded

__all__ = ["pytestmark"]

_TOTAL, _FAILED = 572, 38


def said(op: ObservedOp) -> tuple[Any, ...]:
    """What must be the same by both ways."""
    return op.endpoint, op.success, op.error, op.error_type, op.features, op.output_summary, op.source, op.task


async def test_recorded_calls_are_the_same_ops_through_the_proxy(tmp_path: Path) -> None:
    """572 calls: endpoint, success, error, features and order as through `observed()`."""
    calls = recorded()
    async with stand_in() as gateway:
        as_recorded(gateway, calls)
        async with observer(tmp_path / "wrapped", GATEWAY_URL=gateway.url) as running:
            for call in calls:
                await running.gateway.observed(f"/tools/{call['tool']}", call["arguments"], "x", task=_task(call))
            await settled(running, _TOTAL)
            wrapped = running.ring.ops()
        as_recorded(gateway, calls)
        async with proxied(tmp_path / "proxied", gateway.url) as running:
            base = f"http://127.0.0.1:{proxy_port(running)}"
            async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as agent:
                for call in calls:
                    headers = {"X-Observer-Op-Task": _task(call)}
                    got = await agent.post(f"/tools/{call['tool']}", json=call["arguments"], headers=headers)
                    assert got.status_code == 200
                    assert ("error" in got.json()) is not call["success"]
            await settled(running, _TOTAL)
            through = running.ring.ops()
    assert list(map(said, through)) == list(map(said, wrapped))
    assert (len(through), sum(not op.success for op in through)) == (_TOTAL, _FAILED)
    cut = Normalizer(Redactor()).cut
    assert [op.features or {} for op in through] == [request_features(call["arguments"], cut) for call in calls]


def _task(call: dict[str, Any]) -> str:
    return json.dumps([call["task_id"], call["trial"]])
