"""The small parts behind a proxied call's op: route templates, the agent's own fields, bodies, bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gateway.body_reader import read_body
from sidecar.gateway.features import request_features
from sidecar.gateway.json_rpc import rpc_answer, rpc_call, rpc_failure
from sidecar.gateway.llm_usage import llm_call, stream_error
from sidecar.gateway.op_headers import op_fields
from sidecar.gateway.proxied_call import PREFIX_BYTES, TAIL_BYTES, Capture, CaptureBudget
from sidecar.gateway.route_template import Templates
from tests.strategies import values


@pytest.mark.parametrize(
    ("target", "template"),
    [
        (b"/tools/fill_shift", "/tools/fill_shift"),
        (b"/v1/chat/completions?x=1#y", "/v1/chat/completions"),
        (b"/orders/4711/items/-3", "/orders/{id}/items/{id}"),
        (b"/u/6f1c2b9e-8a43-4a52-9b1e-2f3c4d5e6f70", "/u/{id}"),
        (b"/u/6F1C2B9E8A434A52", "/u/{id}"),
        (b"/at/2026-05-01T10:00:00Z", "/at/{id}"),
        (b"/at/2026-05-01", "/at/{id}"),
        (b"/flights/HAT030", "/flights/{id}"),
        (b"/r/gift_card_8190333", "/r/{id}"),
        (b"/users/sara_doe_496", "/users/{id}"),
        (b"/users/a@b.example", "/users/{id}"),
        (b"/s/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/s/{id}"),
        (b"/v1/models/gpt-4o", "/v1/models/gpt-4o"),
        (b"/api/v2/search", "/api/v2/search"),
        (b"/get_reservation_details", "/get_reservation_details"),
        (b"/" + b"a" * 65, "/{id}"),
        (b"/", "/"),
        (b"*", "*"),
        (b"//x", "//x"),
    ],
)
def test_what_varies_in_a_path_is_folded(target: bytes, template: str) -> None:
    """Numbers, UUIDs, hashes, dates, addresses and long ids; words and versions stay."""
    assert Templates().of(target) == template


@given(st.lists(st.text("abcxyz/", max_size=12).map(lambda text: f"/{text}".encode()), max_size=300))
def test_there_are_few_templates(targets: list[bytes]) -> None:
    """However many paths are made up, at most twice the bound and one come out."""
    templates = Templates(most=10)
    assert len({templates.of(target) for target in targets}) <= 21


def test_headers_become_fields() -> None:
    """By name, with types; what has no field, or a wrong value, is kept as extra."""
    given = [("staffer-id", "s"), ("sig", "x"), ("count", "2.5"), ("applied-at-turn", "many"), ("x", "1")]
    given += [("rescue-succeeded", "0"), ("op-id", "mine"), ("success", "true"), ("event-id", "e"), ("", "no name")]
    fields, extra = op_fields(given)
    assert fields == {"staffer_id": "s", "sig_hash": "x", "count": 2.5, "rescue_succeeded": False}
    assert extra == {"applied_at_turn": "many", "x": "1", "op_id": "mine", "success": "true", "event_id": "e"}
    assert op_fields([("count", "nan")])[0] == {}
    assert len(op_fields([(f"n{n}", "x") for n in range(100)])[1]) == 32


def captured(*pieces: bytes) -> Capture:
    capture = Capture(CaptureBudget(10**9))
    for piece in pieces:
        capture.add(piece)
    return capture


@given(st.lists(st.binary(max_size=3 * TAIL_BYTES), max_size=20))
def test_a_capture_is_beginning_and_end(pieces: list[bytes]) -> None:
    """The first bytes up to the bound, the last ones behind it, and the size of all."""
    capture, whole = captured(*pieces), b"".join(pieces)
    assert capture.prefix == whole[:PREFIX_BYTES]
    assert capture.tail == whole[PREFIX_BYTES:][-TAIL_BYTES:]
    assert (capture.size, capture.whole) == (len(whole), len(whole) <= PREFIX_BYTES)


@given(values)
def test_no_body_breaks_the_readers(value: Any) -> None:
    """Whatever JSON is sent and answered, it is read without an error."""
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    for kind in ("application/json", "text/event-stream", "application/x-ndjson", ""):
        body = read_body(captured(raw), kind, "")
        call = rpc_call({"jsonrpc": "2.0", "method": "tools/call", "params": body.data})
        assert call is not None
        answer = rpc_answer(call, [body.data, *body.messages, {"result": body.data, "error": body.data}])
        assert answer is not None
        rpc_failure(answer)
        model = llm_call("/v1/messages", {"messages": body.data, "model": body.data})
        assert model is not None
        model.read(
            [body.data, {"message": body.data, "choices": [body.data], "usage": body.data, "content": body.data}]
        )


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "br", "identity", "odd"]))
def test_no_bytes_break_the_reader(raw: bytes, coding: str) -> None:
    """Nor do bytes that are no JSON, no text, not compressed as they say."""
    for kind in ("application/json", "text/event-stream", "text/plain"):
        read_body(captured(raw), kind, coding)


def test_the_end_of_a_long_stream_is_read() -> None:
    """Counts come with the last event, far behind the beginning that is kept."""
    event = b'data: {"choices": [{"delta": {"content": "word "}}]}\n\n'
    last = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}\n\ndata: [DONE]\n\n'
    body = read_body(captured(*[event] * 5000, last), "text/event-stream", "")
    assert body.messages[-1]["usage"]["completion_tokens"] == 9


def test_what_a_long_stream_tells_in_the_middle_is_read() -> None:
    """Of thousands of events the first are read, and later ones that say more than a piece of text."""
    event = b'data: {"choices": [{"delta": {"content": "w"}, "finish_reason": null}]}\n\n'
    tool = b'data: {"choices": [{"delta": {"tool_calls": [{"function": {"name": "search"}}]}}]}\n\n'
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}\n\n'
    body = read_body(captured(event * 700, tool, event * 300, end), "text/event-stream", "")
    assert len(body.messages) == 252
    assert "search" in str(body.messages[250])
    assert body.messages[251]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_error_in_the_middle_of_a_long_stream_is_read() -> None:
    """An event that is an error by its type, and has no field of that name, is not taken for a piece of text."""
    event = b'data: {"type": "response.output_text.delta", "delta": "w"}\n\n'
    error = b'data: {"type": "error", "code": "server_error", "message": "gone", "param": null}\n\n'
    body = read_body(captured(event * 700, error, event * 10), "text/event-stream", "")
    assert stream_error(body.messages, of_model=True) == {"code": "server_error", "message": "gone"}


_FAILED = {"type": "response.failed", "response": {"error": {"code": "server_error"}}}
_ERROR = {"type": "error", "code": "E42", "message": "disk at 91 %"}


@pytest.mark.parametrize(
    ("event", "of_a_model", "of_any"),
    [
        (_ERROR, True, False),
        ({**_ERROR, "param": None}, True, False),
        ({**_ERROR, "sequence_number": 7}, True, False),
        ({**_ERROR, "param": None, "sequence_number": True}, True, False),
        ({**_ERROR, "param": None, "sequence_number": 7}, True, True),
        (_FAILED, True, False),
        ({**_FAILED, "sequence_number": 7}, True, True),
        ({"type": "error", "message": "x", "sequence_number": 7}, False, False),
        ({"type": "info", "error": "of any API"}, True, True),
    ],
)
def test_a_record_is_no_error_of_a_model(event: dict[str, Any], of_a_model: bool, of_any: bool) -> None:
    """What a log may write as well is an error only where a model was called, or if it can be nothing else."""
    messages = [{"type": "info"}, event, {"type": "info"}]
    assert (stream_error(messages, of_model=True) is not None) == of_a_model
    assert (stream_error(messages, of_model=False) is not None) == of_any


def test_features_take_little_of_a_huge_body() -> None:
    """Bounded in all that is looked at: fields, and characters of all values together; numbers need none."""
    looked: list[int] = []

    def cut(text: str, most: int) -> str:
        looked.append(len(text))
        return text[:most]

    body: dict[str, Any] = {f"t{n}": "x" * 5000 for n in range(30)}
    features = request_features({**body, "n": 7, "deep": {"a": {"b": "c", "d": {"e": 1}}}}, cut)
    assert sum(looked) < 2 * 8192
    assert (features["t0"], features["n"]) == ("x" * 256, 7)
    assert request_features({**{f"l{n}": [] for n in range(100_000)}, "late": 1}, cut) == {}
    assert request_features({"deep": {"a": {"b": "c", "d": {"e": 1}}}}, cut) == {"deep.a.b": "c"}
