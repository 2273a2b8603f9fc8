"""The checks of `observer doctor` that ask other services."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from sidecar.clock import SystemClock
from sidecar.commands import check_langfuse, checks_local, checks_remote
from sidecar.commands.finding import Finding
from sidecar.commands.why_failed import why_failed
from sidecar.errors import ModelError
from sidecar.pipeline.webhook import local_model
from tests.langfuse_server import FORWARD, PULL, langfuse_server
from tests.observers import Answer, StandIn, says, settings, stand_in


async def gateway_finding(stub: StandIn, tmp_path: Path, **env: str) -> tuple[Finding, float | None]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await checks_remote.gateway(settings(tmp_path, GATEWAY_URL=stub.url, **env), client)


async def test_a_gateway_that_answers_is_well_and_tells_the_time(tmp_path: Path) -> None:
    """Its `Date` header is what our clock is held against."""
    async with stand_in() as stub:
        old = (b"date", b"Mon, 23 Nov 2020 02:30:49 GMT")
        stub.answers["/health"] = Answer(200, b"{}", (old,))
        finding, skew_s = await gateway_finding(stub, tmp_path)
    assert finding.status == "ok"
    assert skew_s is not None
    assert checks_local.clock(skew_s).status == "warn"
    assert "ahead of the gateway's" in checks_local.clock(skew_s).found
    assert "behind the gateway's" in checks_local.clock(-skew_s).found
    assert checks_local.clock(0.5).status == "ok"


@pytest.mark.parametrize(
    ("status", "required", "expected"),
    [(204, "false", "ok"), (404, "false", "warn"), (404, "true", "fail"), (500, "false", "fail")],
)
async def test_a_gateway_that_answers_otherwise(tmp_path: Path, status: int, required: str, expected: str) -> None:
    """Not every gateway has a `/health`; `--require-gateway` insists on it."""
    async with stand_in() as stub:
        stub.answers["/health"] = Answer(status, b"", ())
        finding, skew_s = await gateway_finding(stub, tmp_path, OBSERVER_REQUIRE_GATEWAY=required)
    assert (finding.status, skew_s) == (expected, None)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (says({"text": "ok"}), "ok"),
        (says({"text": " "}), "warn"),
        (says({"text": 5}), "warn"),
        (says([]), "warn"),
        (Answer(200, b"no json"), "warn"),
        (says({"error": "no such model"}, 404), "warn"),
        (Answer(200, b"x" * 200_000), "warn"),
    ],
)
async def test_the_model_is_asked_one_word(tmp_path: Path, answer: Answer, status: str) -> None:
    """Anything but a text is a warning that says what came."""
    async with stand_in() as stub, httpx.AsyncClient(trust_env=False) as client:
        stub.answers["/ai/generate"] = answer
        finding = await checks_remote.model(settings(tmp_path, LAKEHOUSE_URL=stub.url), client)
    assert finding.status == status
    assert stub.asked[0].json()["model"] == "qwen2.5"


async def test_where_there_is_no_model_none_is_asked(tmp_path: Path) -> None:
    """It is how it is set up, so no warning."""
    async with stand_in() as stub, httpx.AsyncClient(trust_env=False) as client:
        told = settings(tmp_path, LAKEHOUSE_URL=stub.url, OBSERVER_MODEL_API="none")
        assert (await checks_remote.model(told, client)).status == "ok"
    assert stub.asked == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (says({"choices": [{"message": {"content": "ok"}}]}), "ok"),
        (says({"choices": []}), "warn"),
        (says({"choices": [{"message": None}]}), "warn"),
    ],
)
async def test_a_chat_server_is_asked_its_own_way(tmp_path: Path, answer: Answer, status: str) -> None:
    """At `/v1/chat/completions`, whether the address has the `/v1` or not."""
    async with stand_in() as stub, httpx.AsyncClient(trust_env=False) as client:
        stub.answers["/v1/chat/completions"] = answer
        env = {"LAKEHOUSE_URL": f"{stub.url}/v1", "OBSERVER_MODEL_API": "openai"}
        finding = await checks_remote.model(settings(tmp_path, **env), client)
    assert finding.status == status
    assert stub.asked[0].json()["messages"][-1]["content"] == "Say ok."


@pytest.mark.parametrize("model_api", ["lakehouse", "openai"])
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_model_is_asked_where_and_how_a_running_observer_asks(
    tmp_path: Path, model_api: str, path: str
) -> None:
    """Same address, same fields; only words and their number differ."""
    async with stand_in() as stub, httpx.AsyncClient(trust_env=False) as client:
        told = settings(tmp_path, LAKEHOUSE_URL=stub.url + path, OBSERVER_MODEL_API=model_api)
        await checks_remote.model(told, client)
        running = local_model(told, client, SystemClock(), str)
        assert running is not None
        with pytest.raises(ModelError):
            await running.generate("Say ok.", max_tokens=5)
    checked, asked = stub.asked
    assert (checked.path, checked.json()) == (asked.path, asked.json())


async def test_langfuse_servers_are_asked_with_their_keys(tmp_path: Path) -> None:
    """One that knows them, one that does not, one that is away; none where none is set."""
    async with langfuse_server() as server:
        named = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD, "LANGFUSE_PULL_URL": server.url, **PULL}
        wrong = {**named, "LANGFUSE_FORWARD_SECRET_KEY": "sk-other"}
        asked = [
            await asyncio.gather(*check_langfuse.langfuse(settings(tmp_path, **env))) for env in (named, wrong, {})
        ]
    gone = await asyncio.gather(*check_langfuse.langfuse(settings(tmp_path, **named)))
    assert [[finding.status for finding in findings] for findings in asked] == [["ok", "ok"], ["fail", "ok"], []]
    assert [(finding.check, finding.status) for finding in gone] == [
        ("langfuse forward", "warn"),
        ("langfuse pull", "warn"),
    ]
    assert "LANGFUSE_FORWARD_SECRET_KEY" in asked[1][0].fix


def test_the_reason_of_a_failure_is_in_the_systems_words() -> None:
    """The innermost that has any; TLS and DNS number their errors themselves, so those keep their own words."""

    def failed(cause: BaseException) -> Exception:
        outer = httpx.ConnectError("All connection attempts failed")
        outer.__cause__ = ExceptionGroup("several", [cause]) if isinstance(cause, Exception) else cause
        return outer

    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    for cause, words in (
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)"), "Connection refused"),
        (untrusted, "certificate verify failed: self-signed certificate"),
        (unknown, "Name or service not known"),
        (ValueError("odd"), "All connection attempts failed"),
    ):
        assert why_failed(failed(cause), 5) == words
    assert why_failed(httpx.ReadTimeout(""), 5) == "no answer within 5 s"
    assert why_failed(ValueError(), 5) == "ValueError"
