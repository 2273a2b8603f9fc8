"""Summarises a gateway's answer in one line. Existing readers depend on these wordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.normalize import json_text

_ANSWER_CHARACTERS = 80
_JSON_CHARACTERS = 100


def summarize(data: Any, cut: Callable[[str, int], str]) -> str:
    """Summarise *data*, a decoded JSON answer of any shape, in one line; *cut* truncates texts. Never raises."""
    if isinstance(data, dict):
        if "sql_matches" in data:
            return f"hybrid: {_as_text(data['sql_matches'])} sql → {_as_text(data.get('vector_reranked', '?'))} results"
        if _is_given(rows := data.get("rows")):
            return f"{_as_text(data.get('row_count') or _length(rows))} rows"
        if _is_given(answer := data.get("answer")):
            return f"answer: {cut(_as_text(answer), _ANSWER_CHARACTERS)}..."
        if _is_given(sources := data.get("sources")):
            return f"{_length(sources)} sources"
    return cut(json_text(data), _JSON_CHARACTERS)


def _is_given(value: Any) -> bool:
    """Whether *value* is not null, false, 0 or "". An empty list or dict counts: it means `0 rows`."""
    return bool(value) or isinstance(value, list | dict)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def _length(value: Any) -> int | str:
    return len(value) if isinstance(value, list | dict | str) else "?"
