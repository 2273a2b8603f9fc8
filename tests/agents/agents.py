"""Agents as processes of their own, a model for them, and what they sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sidecar.model import ObservedOp
from sidecar.pipeline.observer import Observer
from tests.observers import says, settled, stand_in
from tests.otlp_doors import doors, grpc_port
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.otlp_requests import flat
from tests.proxied import proxy_port

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / "build" / "agents"
_PATIENCE_S = 240
_CHAT = {
    "id": "chat-1",
    "object": "chat.completion",
    "created": 1,
    "model": "small-chat",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Mia is free."}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
}

FlatSpan = tuple[bytes, bytes, bytes]


class Watched(NamedTuple):
    """An observer, the collector behind it, and what the agent sent straight, too."""

    observer: Observer
    collector: OtlpReceiver
    straight: OtlpReceiver

    def address(self, protocol: str) -> str:
        """Where the observer takes spans by *protocol*, without a scheme."""
        return f"127.0.0.1:{grpc_port(self.observer) if protocol == 'grpc' else self.observer.port}"

    async def run(self, *command: str, **env: str) -> None:
        """Run an agent to its end, or kill it; *env* tells it where its spans go."""
        known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=INSTALLED,
            env={
                **known,
                "STRAIGHT": f"{self.straight.http_endpoint}/v1/traces",
                "GATEWAY_URL": f"http://127.0.0.1:{proxy_port(self.observer)}",
                **env,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(_PATIENCE_S):
                output, _ = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert process.returncode == 0, output.decode()

    def otel(self, protocol: str) -> dict[str, str]:
        """The specification's variables for an agent that exports by *protocol*."""
        return {
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address(protocol)}",
        }

    def traceloop(self, protocol: str) -> dict[str, str]:
        """The variable of Traceloop's SDK. For gRPC its metrics are off: it would insist on TLS for those alone."""
        if protocol == "grpc":
            return {"TRACELOOP_BASE_URL": f"grpc://{self.address(protocol)}", "TRACELOOP_METRICS_ENABLED": "false"}
        return {"TRACELOOP_BASE_URL": f"http://{self.address(protocol)}"}

    async def ops(self, count: int) -> dict[str, ObservedOp]:
        """The ops by endpoint, once there are *count*."""
        await settled(self.observer, count)
        return {op.endpoint: op for op in self.observer.ring.ops()}

    async def passed_on(self) -> tuple[list[FlatSpan], list[FlatSpan]]:
        """What the agent sent straight, and the same spans as the collector has them."""
        sent = _spans(self.straight)
        ids = {span for _, _, span in sent}
        while len(arrived := [each for each in _spans(self.collector) if each[2] in ids]) < len(sent):
            await self.collector.wait_for(len(self.collector.spans) + 1)
        return sent, arrived


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """An observer with a proxy before a model, and a collector behind it."""
    async with (
        stand_in() as gateway,
        otlp_receiver() as collector,
        otlp_receiver() as straight,
        doors(
            tmp_path,
            GATEWAY_URL=gateway.url,
            OBSERVER_PROXY_PORT="0",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint,
            OBSERVER_GRACE="60",
        ) as running,
    ):
        gateway.answers["/v1/chat/completions"] = says(_CHAT)
        yield Watched(running, collector, straight)


def _spans(receiver: OtlpReceiver) -> list[FlatSpan]:
    """Each span with its resource and scope, in an order that does not depend on batches."""
    return sorted(each for request in receiver.requests for each in flat(request))
