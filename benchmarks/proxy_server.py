"""The proxy in one of several states, to be measured. `python -m benchmarks.proxy_server STATE PORT GATEWAY FOLDER`.

`bare` passes calls through and observes nothing; `observed` is the observer as deployed. The others have a fault or
load: `full` (every journal write fails), `stalled` (writes take seconds), `collector` (the collector is down), `busy`
(an analysis cycle ten times a second).
"""

from __future__ import annotations

import asyncio
import errno
import gc
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from opentelemetry.sdk.trace import TracerProvider

from sidecar.clock import SystemClock
from sidecar.gateway.gateway_proxy import GatewayProxy
from sidecar.gateway.proxied_call import ProxiedCall
from sidecar.gateway.proxy_calls import CallRecorder
from sidecar.gateway.proxy_head import ResponseHead
from sidecar.gateway.proxy_parts import ProxyLimits
from sidecar.gateway_address import GatewayAddress
from sidecar.normalize import Normalizer
from sidecar.pipeline.observer import Observer
from sidecar.redaction import Redactor
from sidecar.settings import Settings
from sidecar.spans.recorder import OpRecorder
from sidecar.store.journal_file import AppendFile

STATES = ("bare", "observed", "full", "stalled", "collector", "busy")
_STALL_S = 5.0


class Blind(CallRecorder):
    """Records nothing, so that only the HTTP stack is measured."""

    def start(self, call: ProxiedCall) -> list[bytes]:
        return self.trace_lines(call)

    def answered(self, call: ProxiedCall, head: ResponseHead) -> None:
        call.response = head
        call.request_body.skip()
        call.response_body.skip()

    def ended(self, call: ProxiedCall) -> None:
        call.release()


class Full(AppendFile):
    """A full disk."""

    def append(self, data: bytes) -> None:  # noqa: ARG002 - the signature is `AppendFile`'s
        raise OSError(errno.ENOSPC, "no space left on device")


class Stalled(AppendFile):
    """A disk whose writes take seconds."""

    def append(self, data: bytes) -> None:
        time.sleep(_STALL_S)
        super().append(data)


async def bare(port: int, gateway: str) -> None:
    """Run the proxy alone."""
    normalizer, clock, limits = Normalizer(Redactor()), SystemClock(), ProxyLimits(30, 600, 600, 300)
    spans = OpRecorder(TracerProvider(shutdown_on_exit=False))
    proxy = GatewayProxy(
        gateway,
        spans,
        normalizer,
        clock,
        host="127.0.0.1",
        port=port,
        limits=limits,
        connect_timeout_s=5,
        grace_s=4,
    )
    proxy.recorder = Blind(spans, normalizer, clock, GatewayAddress.of("http://127.0.0.1:80"))
    async with asyncio.TaskGroup() as tasks:
        await proxy.start(tasks)
        await _forever()


async def observed(state: str, port: int, gateway: str, folder: Path) -> None:
    """Run the whole observer, in *state*."""
    env = {
        "GATEWAY_URL": gateway,
        "LAKEHOUSE_URL": gateway,
        "OBSERVER_PORT": "0",
        "OBSERVER_HEALTH_PORT": "0",
        "OBSERVER_GRPC_PORT": "-1",
        "OBSERVER_PROXY_PORT": str(port),
        "OBSERVER_DATA_DIR": str(folder / "data"),
        "OVERSEER_CORRECTIONS_PATH": str(folder / "corrections.jsonl"),
    }
    env |= {"OBSERVER_CYCLE": "0.1"} if state == "busy" else {}
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} if state == "collector" else {}
    files: dict[str, Any] = {"full": Full, "stalled": Stalled}
    async with Observer(Settings.from_env(env), open_file=files.get(state, AppendFile)):
        await _forever()


async def _forever() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # as `observer run` does
    await asyncio.Event().wait()


def main(state: str, port: str, gateway: str, folder: str) -> None:
    if state == "bare":
        uvloop.run(bare(int(port), gateway))
    else:
        uvloop.run(observed(state, int(port), gateway, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:5])
