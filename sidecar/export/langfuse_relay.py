"""Relays requests that Langfuse's SDKs make of Langfuse itself (prompts, projects, media), with our own keys.

Nothing is stored: the agent waits for the response, as it would without us. Without a Langfuse server there is no
relay, and the Langfuse door itself answers what an SDK needs to go on.
"""

from __future__ import annotations

import asyncio
from typing import Final

import httpx
import structlog

from sidecar.export.http_client import tls_context
from sidecar.export.langfuse_forward import basic_auth
from sidecar.protocols_langfuse import RelayedAnswer

log = structlog.get_logger(__name__)

TIMEOUT_S: Final = 15.0
MOST_ANSWER: Final = 8 * 2**20


class LangfuseRelay:
    """A `LangfuseAnswers` that asks the server at *url*; the whole response must arrive within *timeout_s* seconds."""

    def __init__(self, url: str, public_key: str, secret_key: str, timeout_s: float = TIMEOUT_S) -> None:
        self._client = httpx.AsyncClient(verify=tls_context(url), limits=httpx.Limits(max_connections=10))
        self._url = url.rstrip("/")
        self._auth = basic_auth(public_key, secret_key)
        self._timeout_s = timeout_s

    async def ask(self, method: str, target: str, media: str, body: bytes) -> RelayedAnswer:
        """See `LangfuseAnswers`."""
        headers = {**self._auth, **({"content-type": media} if media else {})}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    method, self._url + target, headers=headers, content=body or None, timeout=self._timeout_s
                ) as response,
            ):
                said = b""
                async for chunk in response.aiter_bytes():
                    said += chunk
                    if len(said) > MOST_ANSWER:
                        return RelayedAnswer(502, "", b"", f"Langfuse's answer is over {MOST_ANSWER} bytes")
                return RelayedAnswer(response.status_code, response.headers.get("content-type", ""), said, "")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
            why = f"{type(exc).__name__} {exc}".strip()
            log.warning("langfuse.relay_failed", method=method, error=why)
            return RelayedAnswer(502, "", b"", f"Langfuse does not answer: {why}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
