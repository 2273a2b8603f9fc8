"""What an exchange is given: its limits, what all of them share, and the agent's side of it."""

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
    """In seconds: for a request's head, the gateway's first byte, silence within a call, and between calls."""

    head_s: float
    first_byte_s: float
    idle_s: float
    keep_alive_s: float


@dataclass(frozen=True, slots=True)
class ExchangeParts:
    """What every exchange needs; *buffer* is what each read of the loop fills."""

    loop: asyncio.AbstractEventLoop
    pool: UpstreamPool
    recorder: CallRecorder
    limits: ProxyLimits
    buffer: ReadBuffer
    advice: ProxyAdvice | None = None


class AgentSide(Protocol):
    """The agent's connection, as an exchange sees it."""

    active_at: float
    write_paused: bool

    def send(self, *parts: bytes) -> None:
        """Write *parts* with whatever else is written before `flush`."""

    def flush(self) -> None:
        """Hand over what was written."""

    def regulate(self) -> None:
        """Read on, or stop reading."""

    def exchange_over(self, *, close: bool) -> None:
        """The response is whole; *close*: no other may follow."""

    def cut_off(self, *, abruptly: bool) -> None:
        """The response will not be whole: close, so that the agent sees it."""
