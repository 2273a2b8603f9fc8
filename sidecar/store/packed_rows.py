"""Packs the numbers and spans in saved rows of rules from before they were packed (see `sidecar.packed`)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import msgspec

from sidecar.packed import add_number, add_span


def packed_rule(body: bytes) -> bytes:
    """A row with lists in the form with bytes. A row of another form stays as it is, and is found unusable later."""
    try:
        saved = msgspec.json.decode(body)
        sheet = saved["row"]["sheet"]
        for column in sheet.get("fields", {}).values():
            if "early" in column:
                column["early"] = _numbers(column["early"])
        if "refs" in sheet:
            sheet["refs"] = _spans(sheet["refs"])
        return msgspec.json.encode(saved)
    except Exception:  # noqa: BLE001 - one odd row must not cost the others
        return body


def _numbers(early: Iterable[tuple[int, float]]) -> str:
    packed = bytearray()
    for at, number in early:
        add_number(packed, at, number)
    return b64encode(packed).decode()


def _spans(refs: Iterable[tuple[int, Any]]) -> str:
    packed = bytearray()
    for at, (trace_id, span_id) in refs:
        add_span(packed, at, trace_id, span_id)
    return b64encode(packed).decode()
