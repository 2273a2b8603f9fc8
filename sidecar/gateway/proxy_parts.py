"""What an exchange depends on: time limits, shared parts, and the interface of the agent connection."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from sidecar.gateway.proxy_advice import ProxyAdvice
from sidecar.gateway.proxy_buffer import ReadBuffer
from sidecar.gateway.proxy_calls import CallRecorder
from sidecar.gateway.proxy_pool import UpstreamPool


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """Time-outs in seconds: for a request head, the gateway's first byte, silence within a call, idle keep-alive."""

    head_s: float
    first_byte_s: float
    idle_s: float
    keep_alive_s: float


@dataclass(frozen=True, slots=True)
class ExchangeParts:
    """What all exchanges share; *buffer* is the read buffer of all connections."""

    loop: asyncio.AbstractEventLoop
    pool: UpstreamPool
    recorder: CallRecorder
    limits: ProxyLimits
    buffer: ReadBuffer
    advice: ProxyAdvice | None = None


class AgentSide(Protocol):
    """The agent connection, as its exchange sees it."""

    active_at: float
    write_paused: bool

    def send(self, *parts: bytes) -> None:
        """Queue *parts*; `flush` writes them."""

    def flush(self) -> None:
        """Write what is queued to the transport."""

    def regulate(self) -> None:
        """Pause or resume reading from the agent, as back-pressure demands."""

    def exchange_over(self, *, close: bool) -> None:
        """The response is complete; *close*: no other may follow."""

    def cut_off(self, *, abruptly: bool) -> None:
        """The response stays incomplete: close, so that the agent notices."""
