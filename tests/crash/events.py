"""The events of the load. Each is derived from its id alone, so the oracle knows the expected journal line."""

from __future__ import annotations

import zlib
from typing import Any

TOOLS = "/tools/"
"""Prefix of the load's endpoints, and so of their span names."""
_TEXTS = ("plain", "Zoë", "日本語", '\U0001f600 \\ "quoted"', "line\u2028end", "tab\there", "ß" * 40, "x" * 1500)
"""Characters of one to four bytes, characters that JSON escapes, and long texts."""


def event_of(event_id: str, *, named: bool = True) -> dict[str, Any]:
    """The event *event_id*. With *named* it has that `event_id`; without, only its extra field `id` tells the id."""
    bits = zlib.crc32(event_id.encode())
    text = f"{_TEXTS[bits % len(_TEXTS)]} {bits % 1000}"
    success = bits % 3 > 0
    event = {
        "endpoint": f"{TOOLS}crash_{bits % 5}",
        "success": success,
        "duration_ms": bits % 977,
        "input_summary": text,
        "features": {"amount": bits % 101, "note": text[::-1]},
        "task": event_id.rpartition("-")[0],
        "id": event_id,
        "digest": digest(event_id, text),
    }
    if not success:
        event["error"] = f"no one is free for {text}"
    return {**event, "event_id": event_id} if named else event


def digest(event_id: str, text: str) -> int:
    """A checksum over the id and its payload."""
    return zlib.crc32(f"{event_id}\n{text}".encode())


def is_intact(line: dict[str, Any], event_id: str) -> bool:
    """Whether every field of a journal *line* equals what was sent as *event_id*."""
    sent = event_of(event_id)
    extra = line.get("extra", {})
    same = all(line.get(name) == sent.get(name) for name in ("endpoint", "success", "input_summary", "error", "task"))
    return (
        same
        and line.get("duration_ms") == sent["duration_ms"]
        and line.get("features") == sent["features"]
        and extra.get("digest") == digest(event_id, line["input_summary"])
        and line.get("event_id") in (None, event_id)
    )
