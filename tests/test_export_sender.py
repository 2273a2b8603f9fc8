"""What becomes of a request, by the collector's answer: over real gRPC and HTTP."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from sidecar.errors import StartError
from sidecar.export.answers import Answer, grpc_answer, http_answer
from sidecar.export.otlp_sender import otlp_sender
from sidecar.export.otlp_target import OtlpTarget, header_pairs, timeout_seconds
from sidecar.pipeline.export import otlp_target
from sidecar.settings import Settings
from tests.otlp_receiver import TAKEN, OtlpReceiver, Said, otlp_receiver, request_of, sender

_RETRYABLE = ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]
_CREDENTIALS = ["UNAUTHENTICATED", "PERMISSION_DENIED"]
_PERMANENT = [
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "INTERNAL",
]


async def answer(receiver: OtlpReceiver, protocol: str, said: Said) -> Answer:
    """What the sender makes of *said*."""
    receiver.answer = lambda _: said
    async with sender(receiver, protocol) as made:
        return await asyncio.to_thread(made.send, request_of("a"), 30.0)


@pytest.mark.parametrize("code", [*_RETRYABLE, *_CREDENTIALS, *_PERMANENT])
async def test_grpc_codes_are_kept_apart_as_otlp_says(code: str) -> None:
    """Retryable ones come again, and so do unknown credentials; all others never. RESOURCE_EXHAUSTED with RetryInfo."""
    async with otlp_receiver() as receiver:
        plain = await answer(receiver, "grpc", Said(grpc.StatusCode[code], "because"))
        assert plain.verdict == ("refused" if code in _PERMANENT else "retry")
        assert (plain.why, plain.wait_s) == (f"{code} because", None)
        if code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
            told = await answer(receiver, "grpc", Said(grpc.StatusCode[code], "busy", retry_info_s=2.5))
            assert (told.verdict, told.wait_s) == ("retry", 2.5)


@pytest.mark.parametrize("status", [429, 502, 503, 504, 400, 401, 403, 404, 405, 413, 415, 418, 500, 501, 307])
async def test_http_statuses_are_kept_apart_as_otlp_says(status: int) -> None:
    """429, 502, 503 and 504 come again, and so do 401 and 403: a person puts that right; 413 was too large."""
    async with otlp_receiver() as receiver:
        said = await answer(receiver, "http/protobuf", Said(status=status, headers=((b"retry-after", b"7"),)))
    if status in (401, 403, 429, 502, 503, 504):
        assert (said.verdict, said.wait_s) == ("retry", 7.0)
    else:
        assert said.verdict == ("too_large" if status == 413 else "refused")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_partial_success_is_a_success_with_losses(protocol: str) -> None:
    """The rejected spans are counted, and not sent again."""
    async with otlp_receiver() as receiver:
        said = await answer(receiver, protocol, Said(rejected=3, message="too old"))
        assert (said.verdict, said.rejected, said.why) == ("delivered", 3, "too old")
        assert await answer(receiver, protocol, TAKEN) == Answer("delivered")


async def test_grpc_does_not_ask_a_proxy_for_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector is reached directly, whatever `http_proxy` says."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with otlp_receiver() as receiver:
        assert await answer(receiver, "grpc", TAKEN) == Answer("delivered")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_nobody_there_and_nobody_answering_are_retried(protocol: str) -> None:
    """A dead port at once, a hanging one after the time-out."""
    async with otlp_receiver() as receiver:
        receiver.gate.clear()
        async with sender(receiver, protocol) as made:
            hung = await asyncio.to_thread(made.send, request_of("a"), 0.2)
    assert (hung.verdict, hung.answered) == ("retry", False)
    async with sender(receiver, protocol) as made:
        gone = await asyncio.to_thread(made.send, request_of("a"), 30.0)
    assert (gone.verdict, gone.answered) == ("retry", False)


@pytest.mark.parametrize(
    ("details", "code"),
    [
        ("grpc: received message larger than max (5000000 vs. 4194304)", "RESOURCE_EXHAUSTED"),
        ("SERVER: Received message larger than max (9 vs. 4)", "RESOURCE_EXHAUSTED"),
        ("message size 9 exceeds maximum", "OUT_OF_RANGE"),
    ],
)
def test_refusals_for_size_are_known_by_their_words(code: str, details: str) -> None:
    """There is no code of its own for them in gRPC."""
    assert grpc_answer(code, details, None).verdict == "too_large"


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("", None),
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 30, float("inf")),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, wait_s: float | None) -> None:
    """RFC 9110; what is neither asks for nothing."""
    assert http_answer(503, b"", header, 1_445_412_480 * 10**9).wait_s == wait_s


def test_what_the_collector_says_is_bounded_and_printable() -> None:
    """It goes into our log."""
    assert http_answer(400, b"a\x00\nb" + b"x" * 10_000, "", 0).why.startswith("HTTP 400 a  bxxx")
    assert len(http_answer(400, b"x" * 10_000, "", 0).why) < 400
    assert http_answer(200, b"<html>", "", 0) == Answer("delivered")


def test_the_standard_variables_make_the_target() -> None:
    """Those for traces go over the general ones; a signal's own endpoint is the whole URL."""
    general = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c.example/base/",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1,B=x%20y,broken",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "ca.pem",
    }
    target = otlp_target(Settings.from_env(general), "traces")
    assert target == OtlpTarget(
        "https://c.example/base/v1/traces", "http/protobuf", (("a", "1"), ("b", "x y")), 2.5, certificate="ca.pem"
    )
    own = {
        **general,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t.example",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "5",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
    }
    traces = otlp_target(Settings.from_env(own), "traces")
    assert (traces.authority, traces.is_tls, traces.timeout_s, traces.gzip) == ("t.example:4317", False, 5.0, True)
    metrics = otlp_target(Settings.from_env(own), "metrics")
    assert (metrics.endpoint, metrics.protocol) == ("https://c.example/base/v1/metrics", "http/protobuf")
    assert OtlpTarget("https://u:p@[::1]:99/x", "grpc").authority == "[::1]:99"
    assert OtlpTarget("https://c.example", "grpc").authority == "c.example:443"
    assert header_pairs("") == ()
    assert (timeout_seconds(10_000), timeout_seconds(10)) == (10.0, 10.0)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_unusable_certificates_are_said_at_the_start(tmp_path: Path, protocol: Any) -> None:
    """By the variables' names."""
    with pytest.raises(StartError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        otlp_sender(OtlpTarget("https://127.0.0.1:9", protocol, certificate=str(tmp_path / "missing.pem")))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_tls_is_spoken_where_the_scheme_says_so(protocol: Any) -> None:
    """A server that does not speak it is nobody we can reach."""
    async with otlp_receiver() as receiver:
        endpoint = (receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint).replace("http", "https")
        made = otlp_sender(OtlpTarget(endpoint, protocol))
        said = await asyncio.to_thread(made.send, request_of("a"), 5.0)
        made.close()
    assert said.verdict == "retry"
    assert receiver.arrived == 0


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_certificates_are_checked_and_shown(tmp_path: Path, protocol: Any) -> None:
    """A collector that asks for a client's certificate gets it; one that we cannot verify gets nothing."""
    certificate, key = _certificate(tmp_path)
    files = {"certificate": str(certificate), "client_key": str(key), "client_certificate": str(certificate)}
    async with otlp_receiver(tls=(certificate, key)) as receiver:
        async with sender(receiver, protocol, **files) as made:
            said = await asyncio.to_thread(made.send, request_of("a"), 30.0)
        async with sender(receiver, protocol) as made:
            unverified = await asyncio.to_thread(made.send, request_of("b"), 30.0)
    assert (said.verdict, unverified.verdict) == ("delivered", "retry")
    assert [span.name for span in receiver.spans] == ["a"]


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program, which makes the certificate, is not installed")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=collector"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
