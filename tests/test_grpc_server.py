"""What stands around the gRPC services: health, reflection, TLS, with real clients against a running observer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # it has no types
from grpc_reflection.v1alpha import (  # type: ignore[import-untyped]  # it has no types
    reflection_pb2,
    reflection_pb2_grpc,
)

from sidecar.errors import StartError
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub
from tests.grpc_service import SERVICE, service


async def test_health_is_open_to_all_and_follows_the_observer(tmp_path: Path) -> None:
    """Without a token; each service that is served is known by name."""
    async with service(tmp_path, OBSERVER_TOKEN="secret") as (_, stub, channel):
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE, "opentelemetry.proto.collector.trace.v1.TraceService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), compression=grpc.Compression.Gzip)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        first = await health.Watch(health_pb2.HealthCheckRequest()).read()
        assert first.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetStats(pb.GetStatsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_client_that_knows_nothing_can_call_by_reflection(tmp_path: Path) -> None:
    """As grpcurl does: list the services, fetch their descriptions, build the messages from them, call."""
    async with service(tmp_path) as (_, _stub, channel):
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        listed = await _ask(reflect, list_services="")
        names = {each.name for each in listed.list_services_response.service}
        found = await _ask(reflect, file_containing_symbol=SERVICE)
        pool = DescriptorPool()
        for data in reversed(found.file_descriptor_response.file_descriptor_proto):
            pool.Add(FileDescriptorProto.FromString(data))
        method = pool.FindServiceByName(SERVICE).FindMethodByName("Record")
        request = GetMessageClass(method.input_type)()
        request.op.endpoint = "/from/reflection"
        call = channel.unary_unary(
            f"/{SERVICE}/Record", response_deserializer=GetMessageClass(method.output_type).FromString
        )
        answer = await call(request.SerializeToString())
        reflect.cancel()
    assert names >= {SERVICE, "opentelemetry.proto.collector.trace.v1.TraceService", "grpc.health.v1.Health"}
    assert answer.ring_size == 1


async def _ask(reflect: Any, **question: str) -> Any:
    await reflect.write(reflection_pb2.ServerReflectionRequest(**question))
    return await reflect.read()


def _certificate(folder: Path) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program, which makes the certificate, is not installed")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_the_grpc_door_speaks_tls_with_the_same_certificate(tmp_path: Path) -> None:
    """As the HTTP door; a client without TLS gets nowhere."""
    cert, key = _certificate(tmp_path)
    tls = {"OBSERVER_TLS_CERT": str(cert), "OBSERVER_TLS_KEY": str(key)}
    async with service(tmp_path, **tls) as (running, plain, _):
        assert running.otlp.grpc is not None
        place = f"localhost:{running.otlp.grpc.port}"
        async with grpc.aio.secure_channel(place, grpc.ssl_channel_credentials(cert.read_bytes())) as channel:
            stub: Any = ObserverServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            assert (await stub.GetStats(pb.GetStatsRequest())).total == 0
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await plain.GetStats(pb.GetStatsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_key_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """Named, before anything is served."""
    cert, key = _certificate(tmp_path)
    key.unlink()
    with pytest.raises(StartError, match="TLS"):
        async with service(tmp_path, OBSERVER_TLS_CERT=str(cert), OBSERVER_TLS_KEY=str(key)):
            pass
