"""Chat servers, obedient or not: the strictest form that each knows is used, and what comes back is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from sidecar.analysis.answer_checks import why_unusable
from sidecar.analysis.chat_model import ChatModel
from sidecar.analysis.llm import ModelCalls
from sidecar.analysis.model_questions import diagnosis_form
from sidecar.errors import ModelError
from sidecar.redaction import Redactor
from tests.fakes import ManualClock
from tests.observers import Answer, Asked, StandIn, says, stand_in

FORM = diagnosis_form(["[/a] x: closed\ud800", "[/b] y: no seat"], 2)
PATH = "/v1/chat/completions"
GOOD = json.dumps(
    {
        "findings": [
            {"failure": 1, "cause": "The city is closed.", "adjustment": "Ask for another.", "avoid": "", "when": ""}
        ]
    }
)
PROSE = "The city is closed today. Ask for the nearest open one before capacity is looked at."


@pytest.fixture
async def server() -> AsyncIterator[StandIn]:
    async with stand_in() as stub:
        yield stub


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as opened:
        yield opened


def a_model(server: StandIn, client: httpx.AsyncClient, **options: Any) -> ChatModel:
    return ChatModel(ModelCalls(client, 60.0, ManualClock(), **options), server.url, "qwen2.5")


def a_choice(content: str | None, finish: str = "stop", **message: Any) -> Answer:
    said = {"role": "assistant", "content": content, **message}
    return says({"choices": [{"index": 0, "message": said, "finish_reason": finish}]})


def knows(*forms: str, content: str = GOOD) -> Any:
    """A server that takes only these forms of answer."""

    def answer(asked: Asked) -> Answer:
        format_ = asked.json().get("response_format", {"type": "text"})
        form = format_["type"] + (" with schema" if "schema" in format_ else "")
        return a_choice(content) if form in forms else says({"error": {"message": f"unknown {form}"}}, 400)

    return answer


@pytest.mark.parametrize(
    ("forms", "asked"),
    [
        (("json_schema", "json_object", "text"), 1),
        (("json_object with schema", "json_object", "text"), 2),
        (("json_object", "text"), 3),
        (("text",), 4),
    ],
)
async def test_the_strictest_form_that_the_server_knows_is_found_and_remembered(
    server: StandIn, client: httpx.AsyncClient, forms: tuple[str, ...], asked: int
) -> None:
    """One call tries all; the next one goes straight to it."""
    server.answers[PATH] = knows(*forms)
    model = a_model(server, client)
    assert await model.generate("why?", FORM) == GOOD
    assert (len(server.asked), model.form, model.asked.calls) == (asked, forms[0], 1)
    assert await model.generate("why?", FORM) == GOOD
    assert len(server.asked) == asked + 1


async def test_the_request_is_the_one_that_servers_know(server: StandIn, client: httpx.AsyncClient) -> None:
    """Messages, bounds and the schema; the path once, also where the address ends with it; no form, no format."""
    server.answers[PATH] = a_choice(GOOD)
    model = ChatModel(ModelCalls(client, 60.0, ManualClock()), server.url + "/v1/", "qwen2.5")
    await model.generate("why?", FORM)
    first = server.posts(PATH)[0]
    assert first["response_format"]["json_schema"]["schema"] == FORM.schema
    assert (first["model"], first["stream"], first["temperature"], first["max_tokens"]) == ("qwen2.5", False, 0.2, 550)
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    asked = first["messages"][1]["content"]
    assert "\n1. [/a] x: closed\N{REPLACEMENT CHARACTER}\n2. [/b] y: no seat\n" in asked
    assert ("Answer with JSON alone" in asked, "why?" in asked) == (True, False)
    server.answers[PATH] = a_choice(PROSE)
    assert await model.generate("why?", max_tokens=80) == PROSE
    assert "response_format" not in server.posts(PATH)[1]
    assert (server.posts(PATH)[1]["messages"][1]["content"], server.posts(PATH)[1]["max_tokens"]) == ("why?", 80)


async def test_what_is_wrong_with_the_request_itself_is_remembered_of_no_form(
    server: StandIn, client: httpx.AsyncClient
) -> None:
    """All forms are refused (a prompt that is too long): the next call begins with the strictest again."""
    server.answers[PATH] = says({"error": {"message": "prompt too long, key sk-abcdefghijklmnopqrstuvwx12"}}, 400)
    model = a_model(server, client, mask=Redactor().text)
    with pytest.raises(ModelError, match=r"HTTP status 400, it says: .*too long") as caught:
        await model.generate("why?", FORM)
    assert ("sk-abc" in str(caught.value), model.form, len(server.asked)) == (False, "json_schema", 4)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says({"choices": []}), "no `choices`"),
        (says({"choices": [5]}), "no `choices`"),
        (says({}), "no `choices`"),
        (says([]), "not a JSON object"),
        (Answer(200, b"<html>"), "not JSON"),
        (says({"choices": [{"message": 5}]}), "no content"),
        (a_choice(None), "no content"),
        (a_choice("  "), "no content"),
        (a_choice("<think>so much to think about"), "no content"),
        (a_choice(None, refusal="I will not."), "a refusal"),
        (a_choice("I'm sorry, but I can't help with that."), "a refusal"),
        (a_choice("As an AI language model I have no access to your systems."), "a refusal"),
        (a_choice("0x1f 0x2e 17 % $$ ## 88"), "no text"),
        (a_choice("failure " * 100), "repeats itself"),
        (says({"error": "model not loaded"}), "model not loaded"),
        (says({"error": {"message": "busy"}}, 503), "HTTP status 503"),
        (says({}, 401), "HTTP status 401"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_usable_answer_is_a_model_error(
    server: StandIn, client: httpx.AsyncClient, answer: Answer, why: str
) -> None:
    """Counted as a failure; three of them give the server a rest."""
    server.answers[PATH] = answer
    model = a_model(server, client)
    for _ in range(3):
        with pytest.raises(ModelError, match=why):
            await model.generate("why?", FORM)
    asked = len(server.asked)
    with pytest.raises(ModelError, match="calls are suspended"):
        await model.generate("why?", FORM)
    assert (len(server.asked), model.asked.failures) == (asked, 3)


async def test_thoughts_are_left_out_and_what_was_cut_short_ends_at_a_full_stop(
    server: StandIn, client: httpx.AsyncClient
) -> None:
    """JSON that was cut short is given as it is: its reader takes what is whole."""
    server.answers[PATH] = a_choice(f"<think>Let me see.</think>{PROSE} Then, if the", "length")
    model = a_model(server, client)
    assert await model.generate("why?") == PROSE
    server.answers[PATH] = a_choice(GOOD[:-30], "length")
    assert await model.generate("why?", FORM) == GOOD[:-30]


async def test_sixty_seconds_of_silence_are_a_model_error(server: StandIn, client: httpx.AsyncClient) -> None:
    """Whichever form is being tried; the time is that of all of them together."""
    server.silent.add(PATH)
    clock = ManualClock()
    model = ChatModel(ModelCalls(client, 60.0, clock), server.url, "qwen2.5")
    asking = asyncio.create_task(model.generate("why?", FORM))
    await server.wait_for(PATH)
    await clock.advance(60)
    with pytest.raises(ModelError, match="none within 60 s"):
        await asking


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "La ville est fermée.",
        "失敗の原因は都市が閉鎖されていることです。",
        "Use `state=NV` and retry: HTTP 409 means that seat 12A is taken (see /orders/{id}).",
        "The agent apologised to the customer, but the payment had not been made.",
    ],
)
def test_plain_words_in_any_script_are_usable(text: str) -> None:
    """Codes, figures and paths among them do no harm."""
    assert why_unusable(text) is None
