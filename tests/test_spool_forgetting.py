"""What waits in a spool forgets a person too: their spans are gone, their id is nowhere, all else arrives as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.export.frames import SpoolRecord, framed
from sidecar.export.spool_forgetting import SpoolForgetting
from tests.langfuse_batches import event, taken, whole
from tests.langfuse_server import FORWARD, Store, langfuse_server
from tests.observers import client, observer
from tests.otlp_receiver import otlp_receiver
from tests.otlp_requests import a_request, a_span, flat
from tests.test_forget import STAFFER, forget, naming
from tests.test_langfuse_forward import port_of

OTLP = {"content-type": "application/x-protobuf"}


def a_span_of(staffer: str, **fields: Any) -> Any:
    span = a_span(**fields)
    span.attributes.add(key="user.id").value.string_value = staffer
    return span


def scrubbed(tmp_path: Path, request: bytes, staffer: str = STAFFER, spans: int = 1) -> tuple[bytes, SpoolForgetting]:
    """*request* as it lies in a spool once *staffer* was forgotten there."""
    folder = tmp_path / "spool"
    folder.mkdir(exist_ok=True)
    record = framed(SpoolRecord(request, spans))
    path = folder / f"{0:020d}.spool"
    path.write_bytes(record)
    forgetting = SpoolForgetting(staffer)
    forgetting.folder(folder)
    clean = path.read_bytes()
    assert len(clean) == len(record)
    request = clean[len(record) - len(request) :]
    assert clean == framed(SpoolRecord(request, spans))
    return request, forgetting


def test_their_spans_go_and_others_only_lose_the_name(tmp_path: Path) -> None:
    """Wherever it stands in a span, an event, a resource; as a part of another id it stays."""
    told = a_span_of("st-33", name="asked by st-3, not by st-33 or xst-3")
    told.events.add(name="st-3").attributes.add(key="st-3").value.array_value.values.add(string_value="st-3")
    other = a_span_of("st-4")
    request = a_request(a_span_of(STAFFER, name="theirs"), told, other, a_span_of(STAFFER))
    request.resource_spans[0].resource.attributes.add(key="host").value.string_value = "desk of st-3"
    clean, forgetting = scrubbed(tmp_path, request.SerializeToString())
    read = ExportTraceServiceRequest.FromString(clean)
    first, second = read.resource_spans[0].scope_spans[0].spans
    assert first.name == "asked by ****, not by st-33 or xst-3"
    assert (first.events[0].name, first.events[0].attributes[0].key) == ("****", "st-3")
    assert first.events[0].attributes[0].value.array_value.values[0].string_value == "****"
    assert second == other
    assert read.resource_spans[0].resource.attributes[1].value.string_value == "desk of ****"
    assert (forgetting.spans, forgetting.masked) == (2, 4)
    again, nothing = scrubbed(tmp_path, clean)
    assert (again, nothing.spans, nothing.masked) == (clean, 0, 0)


@settings(deadline=None)
@given(
    staffer=st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=6),
    texts=st.lists(st.tuples(st.text(max_size=200), st.booleans()), max_size=6),
)
def test_any_name_goes_and_whoever_is_not_named_stays(
    tmp_path_factory: pytest.TempPathFactory, staffer: str, texts: list[tuple[str, bool]]
) -> None:
    """Spans of others that do not hold the name are the same to the byte, whatever is before and behind them."""
    spans = [a_span_of(staffer if theirs else text, name=text) for text, theirs in texts]
    request = a_request(*spans)
    clean, _ = scrubbed(tmp_path_factory.mktemp("one"), request.SerializeToString(), staffer)
    read = ExportTraceServiceRequest.FromString(clean)
    read.DiscardUnknownFields()  # what readers of OTLP do
    left = flat(read)
    names = [span.attributes[0].value.string_value for span in spans]
    kept = [one for one, name in zip(flat(request), names, strict=True) if name != staffer]
    assert len(left) == len(kept)
    for was, now in zip(kept, left, strict=True):
        if not any(staffer.encode() in part for part in was):
            assert now == was


def test_what_is_no_request_is_masked_as_text(tmp_path: Path) -> None:
    """A damaged record keeps no name either."""
    clean, forgetting = scrubbed(tmp_path, b"\x0a\xff st-3, st-33")
    assert (clean, forgetting.masked) == (b"\x0a\xff ****, st-33", 1)


async def test_nothing_that_waits_names_them_any_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither spool does after `observer forget`; what is others' arrives at the collector and at Langfuse."""
    async with langfuse_server() as gone:
        port = port_of(gone)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "LANGFUSE_FORWARD_URL": f"http://127.0.0.1:{port}",
        "OTEL_METRICS_EXPORTER": "none",
        **FORWARD,
    }
    theirs, others = a_span_of(STAFFER), a_span_of("someone")
    async with observer(tmp_path, **env) as running, client(running) as http:
        body = a_request(theirs, others).SerializeToString()
        assert (await http.post("/api/public/otel/v1/traces", content=body, headers=OTLP)).status_code == 200
        await taken(http, event("trace-create", id="t", userId=STAFFER), *whole("job", name="plan"))
    data = tmp_path / "data"
    assert any(name.endswith(".spool") for name in naming(data))
    said = await asyncio.to_thread(forget, tmp_path, capsys)
    assert naming(data) == []
    assert "and 2 waiting spans overwritten" in said
    store = Store()
    async with otlp_receiver() as collector, langfuse_server(store, port) as server:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.grpc_endpoint
        async with observer(tmp_path, **env):
            await server.until(lambda: bool(store.spans) and len(store.events) == 3)
            await collector.wait_for(1)
    assert set(store.spans) == {others.span_id.hex()}
    assert [span.span_id for span in collector.spans if span.span_id == theirs.span_id] == []
