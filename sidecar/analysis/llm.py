"""The local model behind `POST {LAKEHOUSE_URL}/ai/generate`: asked one prompt at a time, never trusted to answer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import httpx
import msgspec

from sidecar.analysis.circuit_breaker import Circuit, CircuitBreaker
from sidecar.errors import ModelError
from sidecar.normalize import clean_text
from sidecar.protocols import Clock

MAX_TOKENS: Final = 400
TEMPERATURE: Final = 0.2
MAX_ANSWER_BYTES: Final = 256 * 1024

_FIX = "Look at the model behind LAKEHOUSE_URL; diagnoses are made by counting meanwhile"
_SHINGLE = 24  # characters
_LEAST_LENGTH = 60  # below this, a repetition may be meant
_TAILS = (400, 1200, 4000)  # characters from the end: a loop runs to the end of the answer
_LEAST_DISTINCT = 0.35
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
_Payload = dict[str, Any]


class LakehouseModel:
    """A `TextModel` over *client*; one call in flight, a second is refused at once.

    Raises ModelError for whatever is no usable answer: time-out, HTTP status, `error`, no text, a runaway loop, or
    an open circuit (after 3 failures in a row, for 60 s). *mask* takes credentials out of what the model says: it
    may repeat what it has seen elsewhere.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        model_name: str,
        timeout_s: float,
        clock: Clock,
        *,
        mask: Callable[[str], str] = clean_text,
    ) -> None:
        self._client = client
        self._url = url.rstrip("/") + "/ai/generate"
        self._model_name = model_name
        self._timeout_s = timeout_s
        self._clock = clock
        self._mask = mask
        self._busy = False
        self.circuit = CircuitBreaker(clock)
        self.calls = 0
        self.failures = 0
        self.seconds = 0.0

    async def generate(self, prompt: str) -> str:
        """The model's answer to *prompt*. Raises ModelError."""
        if self._busy:
            raise ModelError("the model was not asked", "a call is in flight already", _FIX)
        if self.circuit.state is Circuit.OPEN:
            raise ModelError("the model was not asked", "its last calls failed; it is given a rest", _FIX)
        self._busy = True
        self.calls += 1
        started = self._clock.monotonic()
        answered = False
        try:
            text = _usable(await self._ask(prompt), self._mask)
            answered = True
            return text
        finally:  # a call that is cancelled has failed too
            self._busy = False
            self.seconds += self._clock.monotonic() - started
            self._count(answered)

    def _count(self, answered: bool) -> None:
        if answered:
            self.circuit.succeeded()
        else:
            self.failures += 1
            self.circuit.failed()

    async def _ask(self, prompt: str) -> bytes:
        payload: _Payload = {
            "prompt": clean_text(prompt),
            "model": self._model_name,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
        }
        # identity: a small compressed answer must not become a large one after the bound was checked
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        content = msgspec.json.encode(payload)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", self._url, content=content, headers=headers, timeout=self._timeout_s
                ) as response,
            ):
                if response.status_code != 200:
                    raise ModelError("the model gave no answer", f"HTTP status {response.status_code}", _FIX)
                return await _bounded(response)
        except TimeoutError as exc:
            raise ModelError("the model gave no answer", f"none within {self._timeout_s:g} s", _FIX) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ModelError("the model gave no answer", f"{type(exc).__name__} {exc}".strip(), _FIX) from exc


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ModelError("the model's answer is unusable", f"it is over {MAX_ANSWER_BYTES} bytes", _FIX)
    return bytes(body)


def _usable(body: bytes, mask: Callable[[str], str]) -> str:
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ModelError("the model's answer is unusable", f"it is not JSON: {exc}", _FIX) from exc
    if not isinstance(answer, dict):
        raise ModelError("the model's answer is unusable", "it is no JSON object", _FIX)
    if answer.get("error"):
        raise ModelError("the model gave no answer", f"it says: {mask(str(answer['error']))[:200]}", _FIX)
    text = answer.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ModelError("the model's answer is unusable", "it has no `text`", _FIX)
    if is_runaway(text):
        raise ModelError("the model's answer is unusable", "it repeats itself", _FIX)
    return _CONTROL.sub(" ", mask(clean_text(text.strip())))


def is_runaway(text: str) -> bool:
    """Whether *text* ends in a loop: hardly any of its 24-character windows is new. Bounded to the last 4000."""
    text = text.strip()
    return len(text) >= _LEAST_LENGTH and any(_repeats(text[-size:]) for size in _TAILS)


def _repeats(text: str) -> bool:
    windows = len(text) - _SHINGLE + 1
    distinct = {text[at : at + _SHINGLE] for at in range(windows)}
    return len(distinct) < _LEAST_DISTINCT * windows
