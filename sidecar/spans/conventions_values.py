"""Reads attribute values: OTLP values as Python's, and the text or the scalars inside them. Never raises.

Senders put whole requests and conversations into attributes, so what is read of each is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from sidecar.model import MOST_DURATION_MS
from sidecar.normalize import MAX_ENTRIES, json_text

MOST_READ = 64 * 1024  # characters of a JSON text that is decoded
_MOST_ITEMS = 64
_DEPTH = 4
_NAME_CHARACTERS = 256
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # of a UUID: the digit's two upper bits are 10

Cut = Callable[[str, int], str]


def value_of(value: AnyValue, depth: int = _DEPTH) -> Any:
    """*value* as Python's; lists and maps are bounded in length and *depth*. None for empty values and bytes."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "array_value" and depth:
        return [value_of(each, depth - 1) for each in value.array_value.values[:_MOST_ITEMS]]
    if kind == "kvlist_value" and depth:
        return {each.key: value_of(each.value, depth - 1) for each in value.kvlist_value.values[:_MOST_ITEMS]}
    if kind in ("int_value", "double_value", "bool_value"):
        return getattr(value, kind)
    return None


def duration_of(start_ns: int, ended_ns: int) -> float:
    """The milliseconds between; 0, as for an event without a duration, if they cannot be true.

    They cannot if the start is missing, after the end, or longer before it than any event may last.
    """
    lasted_ms = round((ended_ns - start_ns) / 1e6, 3) if start_ns else 0.0
    return lasted_ms if 0 <= lasted_ms <= MOST_DURATION_MS else 0.0


def opened(value: Any) -> Any:
    """*value*; decoded if it is the JSON text of an object, list or string, unless that is too long."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"') and len(value) <= MOST_READ:
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass
    return value


def said(value: Any, depth: int = 2 * _DEPTH) -> str:
    """The text in *value*: the last message of a list, the content of an answer; else *value* itself as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and depth:
        return _last_message(value, depth)
    if isinstance(value, dict) and depth:
        for name in ("content", "parts", "messages", "choices", "generations", "text", "message", "kwargs", "input"):
            inner = value.get(name)
            if inner and isinstance(inner, str | list | dict):
                return said(inner, depth - 1)
        if calls := _tool_calls(value):
            return f"asks for {', '.join(calls)}"
    return "" if value is None else json_text(value)


def _last_message(messages: list[Any], depth: int) -> str:
    last = messages[-1]
    if isinstance(last, list | str):
        return said(last, depth - 1)
    if isinstance(last, dict) and last.keys() & {"role", "content", "parts", "message", "text", "type"}:
        calls = _tool_calls({"tool_calls": messages})
        return f"asks for {', '.join(calls)}" if calls else said(last, depth - 1)
    return json_text(messages)


def _tool_calls(message: dict[str, Any]) -> list[str]:
    """The names of the tools that a model's *message* calls, in OpenAI's form or as parts."""
    calls = message.get("tool_calls")
    names = []
    for call in calls[:_MOST_ITEMS] if isinstance(calls, list) else ():
        if isinstance(call, dict) and ("function" in call or call.get("type") == "tool_call"):
            function = call.get("function")
            names.append(str(function.get("name") if isinstance(function, dict) else call.get("name")))
    return names


def scalars_of(value: Any, cut: Cut) -> dict[str, Any]:
    """The scalar fields of *value*, nested ones under dotted names; bounded in number, depth and (by *cut*) length."""
    found: dict[str, Any] = {}
    for name, scalar in _walk(value, "", _DEPTH - 1):
        if len(found) == MAX_ENTRIES:
            break
        found[cut(name, _NAME_CHARACTERS)] = cut(scalar, _NAME_CHARACTERS) if isinstance(scalar, str) else scalar
    return found


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(inner, str | bool | int | float):
            yield name, inner
        else:
            yield from _walk(inner, name, depth - 1)


def called_with(value: Any) -> Any:
    """The arguments in *value*: OpenLLMetry stores a Python function's as `{"args": […], "kwargs": {…}}`."""
    if isinstance(value, dict) and value.keys() == {"args", "kwargs"} and isinstance(value["kwargs"], dict):
        given = value["args"] if isinstance(value["args"], list) else []
        return {**{f"args.{index}": each for index, each in enumerate(given[:_MOST_ITEMS])}, **value["kwargs"]}
    return value


def integer(value: Any) -> int | None:
    """*value* as an integer; None if it is not a whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19 else None


def op_id_of(trace_id: bytes, span_id: bytes, ended_ns: int) -> str:
    """The id of a received span's op: a UUID version 7 of the span's end and ids, equal at each delivery."""
    at = f"{(ended_ns // 1_000_000) & 0xFFFF_FFFF_FFFF:012x}"
    trace, span = trace_id.hex()[-3:].rjust(3, "0"), span_id.hex().rjust(16, "0")
    return f"{at[:8]}-{at[8:]}-7{trace}-{_VARIANT[span[0]]}{span[1:4]}-{span[4:]}"
