"""Logging: constant event names, facts as fields, one line per event on standard error (text or JSON)."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

_AMBIGUOUS = frozenset(' "=')
_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send the log to *stream* (standard error if None) as *form* (`text` or `json`) from *level* up.

    The standard library's loggers (uvicorn, OpenTelemetry) go the same way. Called once, by the command line.
    """
    render = _configure_ours(form, level, stream)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[_drop_stdlib_fields, render], foreign_pre_chain=_SHARED)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def configure_if_unset(form: str, level: str) -> None:
    """For an observer embedded in another program: log to standard error, unless that program configured structlog."""
    if not structlog.is_configured():
        _configure_ours(form, level, None)


def _configure_ours(form: str, level: str, stream: TextIO | None) -> Any:
    render: Any = structlog.processors.JSONRenderer() if form == "json" else _text_line
    structlog.configure(
        processors=[*_SHARED, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: structlog.WriteLogger(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    return render


def _drop_stdlib_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("_record", None)
    event.pop("_from_structlog", None)
    return event


def _text_line(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    """`TIME [observer] area.past_tense key=value …`; the cycle's line is as ever from `[observer]` on."""
    fields = dict(event)
    name, level, trace = fields.pop("event"), fields.pop("level", "info"), fields.pop("exception", None)
    begin = f"{fields.pop('timestamp')} [observer]"
    if name == "cycle.completed":
        return f"{begin} cycle {fields['cycle']}: {json.dumps(fields, separators=(',', ':'), default=str)}"
    name = _one_line(str(name))  # the standard library's loggers put whole messages here
    parts = [f"{begin} {name}" if level == "info" else f"{begin} {level.upper()} {name}"]
    parts += [f"{key}={_shown(value)}" for key, value in fields.items()]
    return " ".join(parts) + (f"\n{trace}" if trace else "")


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    return value if value.isprintable() and not _AMBIGUOUS.intersection(value) else json.dumps(value)


def _one_line(text: str) -> str:
    """*text* with control characters (line ends, terminal escapes, lone surrogates) escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
