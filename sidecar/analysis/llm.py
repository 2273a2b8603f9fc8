"""The local model at `POST {LAKEHOUSE_URL}/ai/generate`, called one prompt at a time; failures are expected.

`ModelCalls` is what all models share; `chat_model` has the other one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeVar

import httpx
import msgspec

from sidecar.analysis.answer_checks import why_unusable
from sidecar.analysis.circuit_breaker import Circuit, CircuitBreaker
from sidecar.errors import ModelError, UnusableAnswerError
from sidecar.normalize import clean_text
from sidecar.protocols import AnswerForm, Clock

MAX_TOKENS: Final = 400
TEMPERATURE: Final = 0.2
MAX_ANSWER_BYTES: Final = 256 * 1024
FIX: Final = "Look at the model behind LAKEHOUSE_URL; diagnoses are made by counting meanwhile"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
_Payload = dict[str, Any]
T = TypeVar("T")


class Answer(NamedTuple):
    """A server's response to one request."""

    status: int
    body: bytes


class ModelCalls:
    """Calls of one model server over *client*: one in flight, each within *timeout_s*, none after 3 failures for 60 s.

    *mask* removes credentials from the model's answers: it may repeat what it has seen elsewhere.
    """

    def __init__(
        self, client: httpx.AsyncClient, timeout_s: float, clock: Clock, *, mask: Callable[[str], str] = clean_text
    ) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock
        self._mask = mask
        self._busy = False
        self.circuit = CircuitBreaker(clock)
        self.calls = 0
        self.failures = 0
        self.seconds = 0.0

    async def run(self, asking: Callable[[], Awaitable[T]]) -> T:
        """The result of *asking*. Raises ModelError: from *asking*, a time-out, a call in flight, an open circuit."""
        if self._busy:
            raise ModelError("the model was not asked", "a call is in flight already", FIX)
        if self.circuit.state is Circuit.OPEN:
            raise ModelError("the model was not asked", "its last calls failed; calls are suspended for a while", FIX)
        self._busy = True
        self.calls += 1
        started = self._clock.monotonic()
        answered = False
        try:
            result = await self._in_time(asking)
            answered = True
            return result
        finally:  # a cancelled call counts as failed
            self._busy = False
            self.seconds += self._clock.monotonic() - started
            self._count(answered)

    async def post(self, url: str, payload: _Payload) -> Answer:
        """The response of the server at *url* to *payload*, whatever its status. Raises ModelError."""
        # identity: a small compressed answer must not become a large one after the bound was checked
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        content = msgspec.json.encode(payload)
        try:
            async with self._client.stream(
                "POST", url, content=content, headers=headers, timeout=self._timeout_s
            ) as response:
                return Answer(response.status_code, await _bounded(response))
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise ModelError("the model gave no answer", f"{type(exc).__name__} {exc}".strip(), FIX) from exc

    def cleaned(self, text: str) -> str:
        """*text* without credentials and control characters."""
        return _CONTROL.sub(" ", self._mask(clean_text(text.strip())))

    def told(self, error: Any) -> ModelError:
        """A ModelError with the *error* that the server reported."""
        return ModelError("the model gave no answer", f"it says: {self._mask(str(error))[:200]}", FIX)

    async def _in_time(self, asking: Callable[[], Awaitable[T]]) -> T:
        work = asyncio.ensure_future(asking())
        limit = asyncio.ensure_future(self._clock.sleep(self._timeout_s))
        try:
            await asyncio.wait({work, limit}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ModelError("the model gave no answer", f"none within {self._timeout_s:g} s", FIX)
            return await work
        finally:
            for each in (work, limit):
                each.cancel()
            await asyncio.wait({work, limit})

    def _count(self, answered: bool) -> None:
        if answered:
            self.circuit.succeeded()
        else:
            self.failures += 1
            self.circuit.failed()


class LakehouseModel:
    """A `TextModel` that answers in prose, whatever form is requested.

    Raises ModelError if there is no usable answer: HTTP status, `error`, no text, a runaway loop, a refusal, or a call
    that `ModelCalls` refuses.
    """

    def __init__(self, calls: ModelCalls, url: str, model_name: str) -> None:
        self.asked = calls
        self.url = url.rstrip("/") + "/ai/generate"
        self._model_name = model_name

    async def generate(self, prompt: str, _form: AnswerForm | None = None, *, max_tokens: int = MAX_TOKENS) -> str:
        """The model's answer to *prompt*. Raises ModelError."""
        return await self.asked.run(lambda: self._ask(prompt, max_tokens))

    def request(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        """The body of a POST to `url`."""
        return {
            "prompt": clean_text(prompt),
            "model": self._model_name,
            "max_tokens": max_tokens,
            "temperature": TEMPERATURE,
        }

    async def _ask(self, prompt: str, max_tokens: int) -> str:
        answer = await self.asked.post(self.url, self.request(prompt, max_tokens))
        if answer.status != 200:
            raise ModelError("the model gave no answer", f"HTTP status {answer.status}", FIX)
        said = decoded(answer.body)
        if said.get("error"):
            raise self.asked.told(said["error"])
        text = said.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UnusableAnswerError("the model's answer is unusable", "it has no `text`", FIX)
        return usable(self.asked.cleaned(text))


def decoded(body: bytes) -> _Payload:
    """*body* as a JSON object. Raises ModelError."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ModelError("the model's answer is unusable", f"it is not JSON: {exc}", FIX) from exc
    if not isinstance(answer, dict):
        raise ModelError("the model's answer is unusable", "it is not a JSON object", FIX)
    return answer


def usable(text: str) -> str:
    """*text*, if it can be shown to people. Raises UnusableAnswerError."""
    if (why := why_unusable(text)) is not None:
        raise UnusableAnswerError("the model's answer is unusable", why, FIX)
    return text


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ModelError("the model's answer is unusable", f"it is over {MAX_ANSWER_BYTES} bytes", FIX)
    return bytes(body)
