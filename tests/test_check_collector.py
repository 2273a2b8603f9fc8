"""The checks of `observer doctor` for collectors: the one for spans, and the one for the observer's own metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.commands import check_collector
from tests.observers import Answer, settings, stand_in
from tests.otlp_receiver import otlp_receiver


async def test_the_collector_takes_an_empty_export(tmp_path: Path) -> None:
    """Over gRPC and HTTP, with the headers that the export sends."""
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=value%201"}
    async with otlp_receiver() as receiver:
        for protocol, endpoint in (("grpc", receiver.grpc_endpoint), ("http/protobuf", receiver.http_endpoint)):
            env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
            known = settings(tmp_path, **env)
            finding = await check_collector.spans(known)
            assert finding.status == "ok", finding
        assert [headers["x-key"] for headers in receiver.headers] == ["value 1", "value 1"]
        assert receiver.spans == []


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_collector_that_is_away_fails(tmp_path: Path, protocol: str) -> None:
    """An endpoint that was set is meant to be there."""
    known = settings(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    finding = await check_collector.spans(known)
    assert finding.status == "fail"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in finding.fix


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "OTEL_EXPORTER_OTLP_HEADERS"), (404, "Something else"), (503, "Start")]
)
async def test_a_collector_that_refuses_fails_with_the_reason(tmp_path: Path, status: int, fix: str) -> None:
    """What to do depends on how it refused."""
    async with stand_in() as stub:
        stub.answers["/x"] = Answer(status)
        known = settings(
            tmp_path, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=stub.url + "/x", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
        )
        finding = await check_collector.spans(known)
    assert finding.status == "fail"
    assert fix in finding.fix


async def test_no_endpoint_is_no_export_and_no_fault(tmp_path: Path) -> None:
    """The reason is told apart: unset, or turned off."""
    unset = await check_collector.spans(settings(tmp_path))
    off = await check_collector.spans(settings(tmp_path, OTEL_SDK_DISABLED="true"))
    assert (unset.status, off.status) == ("ok", "ok")
    assert "not set" in unset.found
    assert "turned off" in off.found


async def test_a_missing_certificate_of_the_collector_fails(tmp_path: Path) -> None:
    """The file's name is in the finding."""
    env = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}
    for protocol in ("grpc", "http/protobuf"):
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:9", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        known = settings(tmp_path, **env)
        finding = await check_collector.spans(known)
        assert finding.status == "fail"
        assert "CERTIFICATE" in finding.fix


async def test_metrics_that_go_elsewhere_are_checked_too(tmp_path: Path) -> None:
    """Their collector may be down while that for spans is well, and it is asked as the metrics are sent."""
    async with otlp_receiver() as receiver, stand_in() as stub:
        stub.answers["/v1/metrics"] = Answer(404)
        for protocol, url in (("grpc", receiver.grpc_endpoint), ("http/protobuf", receiver.http_endpoint)):
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
            elsewhere = f"{receiver.http_endpoint}/v1/metrics" if protocol != "grpc" else f"{receiver.grpc_endpoint}/"
            for own in ("", elsewhere, "http://127.0.0.1:9", f"{stub.url}/v1/metrics"):
                known = settings(tmp_path, **env, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=own)
                found = await asyncio.gather(*check_collector.collectors(known))
                assert (found[0].check, found[0].status) == ("collector", "ok"), found
                if own in ("", elsewhere):
                    assert [(each.check, each.status) for each in found[1:]] == [("metrics", "ok")] * bool(own), found
                else:
                    assert [(each.check, each.status) for each in found[1:]] == [("metrics", "fail")], found
                    assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in found[1].fix
                    assert "OTEL_METRICS_EXPORTER=none" in found[1].fix


async def test_metrics_are_checked_where_spans_stay_here(tmp_path: Path) -> None:
    """The general endpoint is theirs alone then; with metrics off, too, nobody is asked."""
    async with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint, "OTEL_TRACES_EXPORTER": "none"}
        known, off = settings(tmp_path, **env), settings(tmp_path, **env, OTEL_METRICS_EXPORTER="none")
        found = await asyncio.gather(*check_collector.collectors(known))
        assert [(each.check, each.status) for each in found] == [("collector", "ok"), ("metrics", "ok")]
        assert len(await asyncio.gather(*check_collector.collectors(off))) == 1
