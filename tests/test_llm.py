"""The model is asked as it always was; whatever it does, the caller gets a usable text or a ModelError."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.answer_checks import is_runaway
from sidecar.analysis.circuit_breaker import Circuit, CircuitBreaker
from sidecar.analysis.llm import MAX_ANSWER_BYTES, LakehouseModel, ModelCalls
from sidecar.errors import ModelError, RetryableError
from sidecar.redaction import Redactor
from tests.fakes import ManualClock
from tests.http_stub import HttpStub

ANSWER = """1. The city is closed, so each request for it is refused before capacity is looked at.
   Ask for the nearest open city first. Yes, add it to the playbook.
2. The payment does not add up: fares of all passengers must be summed before paying.
   Compute the total from the flights found. Yes, add it to the playbook.
3. The flight was not available on that date; search again with the date of the reservation.
   Check availability before the update. Yes, add it to the playbook."""


@pytest.fixture
async def lakehouse() -> AsyncIterator[HttpStub]:
    async with HttpStub.running() as stub:
        yield stub


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as opened:
        yield opened


def model_at(url: str, client: httpx.AsyncClient, timeout_s: float = 30.0) -> tuple[LakehouseModel, ManualClock]:
    clock = ManualClock()
    return LakehouseModel(ModelCalls(client, timeout_s, clock), url, "qwen2.5"), clock


async def test_the_request_is_the_one_callers_know(lakehouse: HttpStub, client: httpx.AsyncClient) -> None:
    """Exactly prompt, model, max_tokens and temperature; the text comes back."""
    lakehouse.answers({"text": f" {ANSWER}\x1b[0m\n", "tokens": 9})
    model, _ = model_at(lakehouse.url + "/", client)
    assert await model.generate("why?\ud800") == ANSWER + " [0m"
    (request,) = lakehouse.requests
    assert request.line == "POST /ai/generate HTTP/1.1"
    assert request.json() == {
        "prompt": "why?\N{REPLACEMENT CHARACTER}",
        "model": "qwen2.5",
        "max_tokens": 400,
        "temperature": 0.2,
    }
    assert (model.asked.calls, model.asked.failures, model.asked.circuit.state) == (1, 0, Circuit.CLOSED)


async def test_what_the_model_says_is_masked(lakehouse: HttpStub, client: httpx.AsyncClient) -> None:
    """A model may repeat a credential that it has seen elsewhere; log, journal and gateway must not."""
    lakehouse.answers({"text": "Use password=hunter2 in Reno."})
    calls = ModelCalls(client, 30.0, ManualClock(), mask=Redactor().text)
    masked = LakehouseModel(calls, lakehouse.url, "qwen2.5")
    assert await masked.generate("why?") == "Use password=[redacted] in Reno."


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"text": "fine"}'),
        (302, b'{"text": "fine"}'),
        (200, b'{"error": "model not loaded", "text": "fine"}'),
        (200, b"not json"),
        (200, b'{"text": "cut off he'),
        (200, b'"text"'),
        (200, b"\xff\xfe"),
        (200, b"[" * 100_000),
        (200, b""),
        (200, b"{}"),
        (200, b'{"text": null}'),
        (200, b'{"text": 5}'),
        (200, b'{"text": " \\n "}'),
        (200, b'{"text": "\\ud800"}'),
        (200, b'{"text": "' + b"Check the date again. " * 40 + b'"}'),
        (200, b'{"text": "' + b"x" * (MAX_ANSWER_BYTES + 1) + b'"}'),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_what_is_no_usable_answer_is_a_model_error(
    lakehouse: HttpStub, client: httpx.AsyncClient, status: int, body: bytes
) -> None:
    """It may be tried again later, and is counted."""
    lakehouse.status, lakehouse.body = status, body
    model, _ = model_at(lakehouse.url, client)
    with pytest.raises(ModelError) as caught:
        await model.generate("why?")
    assert isinstance(caught.value, RetryableError)
    assert (model.asked.calls, model.asked.failures) == (1, 1)


async def test_a_model_that_never_answers_is_left_after_the_time_out(
    lakehouse: HttpStub, client: httpx.AsyncClient
) -> None:
    """It accepts, reads and says nothing for a minute."""
    lakehouse.body = None
    model, clock = model_at(lakehouse.url, client, timeout_s=60)
    asking = asyncio.create_task(model.generate("why?"))
    await lakehouse.asked.wait()
    await clock.advance(59)
    assert not asking.done()
    await clock.advance(1)
    with pytest.raises(ModelError, match=r"none within 60 s"):
        await asking
    assert model.asked.failures == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[bad", "nonsense"])
async def test_a_model_that_is_not_there_is_a_model_error(client: httpx.AsyncClient, url: str) -> None:
    """Nobody listening and an address that is none are alike."""
    model, _ = model_at(url, client)
    with pytest.raises(ModelError):
        await model.generate("why?")


async def test_a_second_call_is_refused_while_one_is_in_flight(lakehouse: HttpStub, client: httpx.AsyncClient) -> None:
    """The first goes on; cancelling it counts as a failure and frees the place."""
    lakehouse.body = None
    model, _ = model_at(lakehouse.url, client)
    first = asyncio.create_task(model.generate("why?"))
    await lakehouse.asked.wait()
    with pytest.raises(ModelError, match="in flight"):
        await model.generate("why?")
    assert (model.asked.calls, model.asked.failures) == (1, 0)
    first.cancel()
    await asyncio.wait([first])
    assert model.asked.failures == 1
    lakehouse.answers({"text": ANSWER})
    assert await model.generate("why?") == ANSWER


async def test_after_three_failures_the_model_is_given_a_rest(lakehouse: HttpStub, client: httpx.AsyncClient) -> None:
    """For a minute nobody asks; then one call tries, and closes or opens the circuit again."""
    model, clock = model_at(lakehouse.url, client)
    for _ in range(5):
        with pytest.raises(ModelError):
            await model.generate("why?")
    states = [model.asked.circuit.state]
    await clock.advance(60)
    states.append(model.asked.circuit.state)
    assert (len(lakehouse.requests), states) == (3, [Circuit.OPEN, Circuit.HALF_OPEN])
    for _ in range(2):
        with pytest.raises(ModelError):
            await model.generate("why?")
    states.append(model.asked.circuit.state)
    assert (len(lakehouse.requests), states[2], model.asked.circuit.opened) == (4, Circuit.OPEN, 2)
    await clock.advance(60)
    lakehouse.answers({"text": ANSWER})
    assert await model.generate("why?") == ANSWER
    states.append(model.asked.circuit.state)
    assert states[3] is Circuit.CLOSED


def test_a_success_between_failures_keeps_the_circuit_closed() -> None:
    """Only failures in a row count."""
    circuit = CircuitBreaker(ManualClock())
    for _ in range(9):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    assert (circuit.state, circuit.opened) == (Circuit.CLOSED, 0)


@pytest.mark.parametrize(
    "text", [ANSWER, ANSWER[:-30], "Yes.", "no no no no no", "失敗の原因は都市が閉鎖されていることです。" * 1]
)
def test_a_plain_answer_is_no_loop(text: str) -> None:
    """Lists with like endings, answers cut short and short ones are used."""
    assert not is_runaway(text)


@given(st.text(st.characters(categories=["L", "N", "Zs"]), min_size=1, max_size=120), st.booleans())
def test_a_loop_is_seen_whatever_its_period(period: str, after_text: bool) -> None:
    """A line, a few words or one character over and over, from the start or after a good beginning."""
    looped = period.strip() or "x"
    assert is_runaway((ANSWER if after_text else "") + looped * (2000 // len(looped)))
