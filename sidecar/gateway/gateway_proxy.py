"""A reverse proxy to the one configured gateway, for agents in any language; a stage of the pipeline.

agent ──► AgentConnection ──► Exchange ──► UpstreamConnection ──► gateway; CallRecorder makes a span of each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Sequence

import structlog

from sidecar.errors import StartError
from sidecar.gateway.proxy_advice import ProxyAdvice
from sidecar.gateway.proxy_agent import AgentConnection, Agents
from sidecar.gateway.proxy_buffer import ReadBuffer
from sidecar.gateway.proxy_calls import CallRecorder
from sidecar.gateway.proxy_head import RequestRules
from sidecar.gateway.proxy_parts import ExchangeParts, ProxyLimits
from sidecar.gateway.proxy_pool import UpstreamPool
from sidecar.gateway_address import GatewayAddress
from sidecar.normalize import Normalizer
from sidecar.protocols import CallSpans, Clock

log = structlog.get_logger(__name__)

_BACKLOG = 2048
_MOST_CONNECTIONS = 8192
_SWEEP_S = 1.0


class GatewayProxy:
    """Listens on *host*:*port* (0: any free port, found in `port`) and forwards every request to *gateway_url*."""

    name = "proxy"

    def __init__(
        self,
        gateway_url: str,
        spans: CallSpans,
        normalizer: Normalizer,
        clock: Clock,
        *,
        host: str,
        port: int,
        limits: ProxyLimits,
        connect_timeout_s: float,
        grace_s: float,
        allowed_hosts: Sequence[str] = (),
        paths: Sequence[str] = (),
    ) -> None:
        gateway = GatewayAddress.of(gateway_url)
        instance = secrets.token_hex(6).encode()
        self.port = port
        self._host = host
        self._limits = limits
        self._grace_s = grace_s
        self._instance = instance
        self._gateway = gateway
        self._connect_timeout_s = connect_timeout_s
        self._rules = RequestRules(gateway, allowed_hosts, paths, instance)
        self.recorder = CallRecorder(spans, normalizer, clock, gateway)
        self.agents = Agents()
        self.buffer = ReadBuffer()
        self.advice: ProxyAdvice | None = None  # set before `start` to give calls advice
        self._pool: UpstreamPool | None = None
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def upstream_connections(self) -> int:
        """Open connections to the gateway."""
        return len(self._pool) if self._pool is not None else 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listen. Raises StartError if the address cannot be bound."""
        loop, gateway = asyncio.get_running_loop(), self._gateway
        pool = UpstreamPool(
            gateway.host,
            gateway.port,
            tls=gateway.scheme == "https",
            connect_timeout_s=self._connect_timeout_s,
            now=loop.time,
            buffer=self.buffer,
        )
        pool.open()
        self.recorder.open(loop)
        parts = ExchangeParts(loop, pool, self.recorder, self._limits, self.buffer, self.advice)
        try:
            server = await loop.create_server(
                lambda: self._agent(parts), self._host, self.port, backlog=_BACKLOG, reuse_address=True
            )
        except OSError as exc:
            raise StartError(
                f"the observer cannot listen on {self._host}:{self.port} for proxy",
                os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc),  # asyncio's text is longer
                "Stop what uses that port, or choose another with OBSERVER_PROXY_PORT (0: any)",
            ) from exc
        self._pool, self._server = pool, server
        self.port = self._rules.targets.port = server.sockets[0].getsockname()[1]
        self._sweeper = tasks.create_task(self._sweep(pool), name="proxy-sweep")
        log.info("port.opened", serves="proxy", host=self._host, port=self.port)

    async def stop(self) -> None:
        """Stop accepting, wait up to a quarter of *grace_s* for running calls, then abort the rest."""
        server, self._server = self._server, None
        if server is None or self._pool is None or self._sweeper is None:
            return
        server.close()
        self.agents.closing = True
        for agent in list(self.agents.connections):
            agent.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s / 4):
                await self.agents.quiet()
        for agent in list(self.agents.connections):
            agent.abort()
        self._sweeper.cancel()
        self._pool.close()
        await asyncio.sleep(0)  # `connection_lost` runs in the loop's next iteration, maybe after this task
        await asyncio.sleep(0)
        self.recorder.record_ended()

    def _agent(self, parts: ExchangeParts) -> asyncio.BaseProtocol:
        if len(self.agents.connections) >= _MOST_CONNECTIONS:
            self.agents.count_refused(503)
            return _HangUp()
        return AgentConnection(self.agents, self._rules, parts, self._probed)

    def _probed(self) -> bytes:
        return b"HTTP/1.1 204 No Content\r\nX-Observer-Proxy: %b\r\nConnection: close\r\n\r\n" % self._instance

    async def _sweep(self, pool: UpstreamPool) -> None:
        """Check all connections for time-outs periodically: a timer for each call would cost more."""
        loop, limits = asyncio.get_running_loop(), self._limits
        every_s = min(_SWEEP_S, limits.head_s / 4, limits.first_byte_s / 4, limits.idle_s / 4)
        while True:
            await asyncio.sleep(every_s)
            now = loop.time()
            for agent in list(self.agents.connections):
                try:
                    agent.sweep(now)
                except Exception:  # one connection must not end the sweep of the others
                    log.exception("proxy.sweep_failed")
                    agent.abort()
            pool.sweep()


class _HangUp(asyncio.Protocol):
    """Closes connections beyond `_MOST_CONNECTIONS` at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
