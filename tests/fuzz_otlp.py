"""`make fuzz-otlp`: sends OTLP requests and gRPC messages, broken in every way, to a running observer.

Each must get an orderly answer: no crash, no hang, no unbounded memory growth. The
bytes come from hypothesis: real requests with bytes changed, cut, doubled, nested, compressed, and plain noise.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from sidecar.pb.v1 import observer_pb2 as pb
from tests.otlp_requests import a_request, a_span, an_op_span
from tests.processes import running_observer

GRPC_METHODS = (
    "opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "sidecar.pb.v1.ObserverService/Record",
    "sidecar.pb.v1.ObserverService/RecordStream",
    "sidecar.pb.v1.ObserverService/GetStats",
    "sidecar.pb.v1.ObserverService/ListIncidents",
    "sidecar.pb.v1.ObserverService/ListPlaybooks",
    "grpc.health.v1.Health/Check",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "opentelemetry.proto.collector.logs.v1.LogsService/Export",
)
_EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
}
_PATIENCE_S = 20.0
_MOST_GROWTH_MIB = 150


def _deep(levels: int) -> bytes:
    value: bytes = AnyValue(string_value="x").SerializeToString()
    for _ in range(levels):
        value = _field(5, _field(1, value))  # `array_value` of `values`
    span = a_span("deep").SerializeToString() + _field(9, _field(1, b"deep") + _field(2, value))
    return _field(1, _field(2, _field(2, span)))


def _field(number: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + content


def _real(spans: int) -> bytes:
    data: bytes = a_request(*[an_op_span() if number % 2 else a_span() for number in range(spans)]).SerializeToString()
    return data


_seeds = st.one_of(
    st.integers(0, 40).map(_real),
    st.integers(0, 90).map(_deep),
    st.binary(max_size=2000),
    st.integers(1, 20_000).map(lambda count: b"\x0a\x00" * count),
    st.text(max_size=50).map(
        lambda text: pb.RecordRequest(op=pb.ObservedOp(endpoint=text, timestamp=text)).SerializeToString()
    ),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A request, valid or broken."""
    body = bytearray(draw(_seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(body) - 1)))
        change = draw(st.sampled_from(["set", "cut", "double", "insert"]))
        if change == "set" and body:
            body[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del body[at:]
        elif change == "double":
            body += body[at:]
        else:
            body[at:at] = draw(st.binary(max_size=20))
    data = bytes(body)
    return gzip.compress(data) if draw(st.booleans()) else data


_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["resourceSpans", "scopeSpans", "spans", "traceId", "spanId", "links", "attributes", "value"]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=30,
)
otlp_json: st.SearchStrategy[Any] = _json | _json.map(
    lambda said: {"resourceSpans": [{"scopeSpans": [{"spans": [said]}]}]}
)


class Target:
    """The observer's doors."""

    def __init__(self, http_port: int, grpc_port: int) -> None:
        self._base = f"http://127.0.0.1:{http_port}"
        self._grpc = f"127.0.0.1:{grpc_port}"
        self.sent = 0

    async def http(self, body: bytes, media: str, *, gzipped: bool) -> None:
        """Any answer that is not the observer's own fault will do."""
        headers = {"content-type": media, **({"content-encoding": "gzip"} if gzipped else {})}
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE_S) as client:
            answer = await client.post(f"{self._base}/v1/traces", content=body, headers=headers)
            assert answer.status_code in (200, 400, 413, 503), (answer.status_code, answer.text)
            assert answer.headers["content-type"] == media
            assert (await client.get(f"{self._base}/livez")).status_code == 200
        self.sent += 1

    async def grpc(self, method: str, body: bytes) -> None:
        """Likewise; INTERNAL, UNKNOWN and a deadline that passes are faults."""
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            call = channel.unary_unary(f"/{method}")(body, timeout=_PATIENCE_S)
            code = await call.code()
            assert code in _EXPECTED, (method, code, await call.details())
        self.sent += 1


def fuzz(target: Target, examples: int, *, derandomize: bool = False) -> None:
    """Send *examples* of each kind to *target*. Raises AssertionError with the smallest failing input."""
    profile = settings(
        max_examples=examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )

    @profile
    @given(bodies(), st.booleans())
    def by_http(body: bytes, gzipped: bool) -> None:
        asyncio.run(target.http(body, "application/x-protobuf", gzipped=gzipped))

    @profile
    @given(otlp_json | st.binary(max_size=300).map(bytes.hex))
    def by_json(said: Any) -> None:
        asyncio.run(target.http(json.dumps(said).encode(), "application/json", gzipped=False))

    @profile
    @given(st.sampled_from(GRPC_METHODS), bodies())
    def by_grpc(method: str, body: bytes) -> None:
        asyncio.run(target.grpc(method, body))

    by_http()
    by_json()
    by_grpc()


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Run rounds of new inputs until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--examples", type=int, default=300, help="of each kind, a round")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.minutes * 60
    with (
        tempfile.TemporaryDirectory() as folder,
        running_observer(Path(folder), OBSERVER_GRPC_PORT="0", OBSERVER_LOG_LEVEL="info") as process,
    ):
        ready = process.wait_for("observer.ready")
        target = Target(ready["port"], ready["grpc_port"])
        at_rest = _resident_mib(process.pid)
        while time.monotonic() < until:
            fuzz(target, arguments.examples)
            now = _resident_mib(process.pid)
            print(f"{target.sent:,} requests, {now:.0f} MiB resident ({at_rest:.0f} at rest)", flush=True)  # noqa: T201 - a program
            if now - at_rest > _MOST_GROWTH_MIB:
                sys.exit("memory grows")
        faults = [event for event in process.events if event.get("event") in ("request.failed", "call.failed")]
        if faults:
            sys.exit(f"{len(faults)} faults in the observer's log, the first: {faults[0]}")


if __name__ == "__main__":
    main()
