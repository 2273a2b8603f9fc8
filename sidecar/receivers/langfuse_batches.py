"""Batches of events and scores from Langfuse's SDKs: split as text, decoded item by item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sidecar.errors import InvalidInputError, MalformedError
from sidecar.ids import new_id
from sidecar.model import Fragment, LangfuseTold, Score
from sidecar.normalize import clean_text
from sidecar.receivers.json_items import items_of, read_value
from sidecar.receivers.langfuse_events import KINDS, LangfuseReader, ns_of

_MOST_ID: Final = 256
_SDK_LOG: Final = "sdk-log"
_RUN_ITEM: Final = "dataset-run-item-create"


class _Batch(msgspec.Struct):
    batch: msgspec.Raw = msgspec.Raw(b"null")


_decoder: Final = msgspec.json.Decoder(_Batch)


class ScoreBatch:
    """Reads scores one by one."""

    def __init__(self, reader: LangfuseReader, now_ns: int) -> None:
        self._reader = reader
        self._now_ns = now_ns
        self.scores: list[Score] = []
        self.errors: list[InvalidInputError] = []

    def told(self) -> LangfuseTold:
        """Everything read so far."""
        return LangfuseTold(taken_ns=self._now_ns, scores=self.scores)

    def read(self, value: Any) -> None:
        """Read one score, or keep its error. Never raises for the score's content."""
        try:
            self.scores.append(self._reader.score(_object(value, "a score"), self._now_ns, new_id()))
        except InvalidInputError as exc:
            self.errors.append(exc)

    def answer(self) -> dict[str, Any]:
        """The response for a list of which some scores were refused."""
        errors = [{"message": str(error)} for error in self.errors]
        return {"accepted": len(self.scores), "rejected": len(errors), "errors": errors}


class EventBatch:
    """Reads the events of a batch one by one. `logs` and `run_items` count those of which nothing is recorded here."""

    def __init__(self, reader: LangfuseReader, now_ns: int) -> None:
        self._reader = reader
        self._now_ns = now_ns
        self.fragments: list[Fragment] = []
        self.scores: list[Score] = []
        self.logs = 0
        self.run_items = 0
        self.successes: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []

    def told(self) -> LangfuseTold:
        """Everything read so far."""
        return LangfuseTold(taken_ns=self._now_ns, fragments=self.fragments, scores=self.scores)

    def read(self, item: Any) -> None:
        """Read one event, or keep its error. Never raises for the event's content."""
        event_id = ""
        try:
            event = _object(item, "an event")
            said_id = event.get("id")
            if not isinstance(said_id, str) or not said_id:
                raise _wrong("id is missing")
            event_id = clean_text(said_id[:_MOST_ID])
            self._event(event, event_id)
            self.successes.append({"id": event_id, "status": 201})
        except InvalidInputError as exc:
            error = {"id": event_id, "status": 400, "message": "Invalid request data", "error": str(exc)}
            self.errors.append(error)

    def _event(self, event: Mapping[str, Any], event_id: str) -> None:
        said_type = event.get("type")
        kind, _, what = said_type.partition("-") if isinstance(said_type, str) else ("", "", "")
        told_ns = ns_of(event["timestamp"], "timestamp") if event.get("timestamp") else self._now_ns
        if said_type == _SDK_LOG:
            self.logs += 1
            return
        if said_type == _RUN_ITEM:  # it puts a trace into an experiment: no operation, and no outcome of one
            self.run_items += 1
            return
        body = _object(event.get("body"), "body")
        if said_type == "score-create":
            self.scores.append(self._reader.score(body, told_ns, event_id))
        elif kind in KINDS and what in ("create", "update"):
            self.fragments.append(self._reader.fragment(kind, body, told_ns, is_update=what == "update"))
        else:
            raise _wrong(f"type {said_type!r:.40} is not known")


def events_of(body: bytes) -> list[Any]:
    """The events of a batch, still as text, or decoded. Raises MalformedError, TooLargeError."""
    try:
        batch = items_of(_decoder.decode(body).batch)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = read_value(body)  # the fast decoder rejects lone surrogates
        batch = said.get("batch") if isinstance(said, dict) else None
    if not isinstance(batch, list):
        raise MalformedError("the body has no batch", "`batch` must be a list of events", 'Send {"batch": […]}')
    return batch


def scores_of(body: bytes) -> list[Any] | dict[str, Any]:
    """The scores of a list, like `events_of`; or the one score, decoded. Raises MalformedError, TooLargeError."""
    said = items_of(body)
    if not isinstance(said, dict | list):
        raise MalformedError("the body is not a score", "it is neither an object nor a list", "Send a score, or a list")
    return said


def _object(value: Any, what: str) -> dict[str, Any]:
    if isinstance(value, InvalidInputError):
        raise value
    if not isinstance(value, dict):
        raise _wrong(f"{what} is not an object")
    return value


def _wrong(what: str) -> InvalidInputError:
    return InvalidInputError(what, "the item was not taken", "See Langfuse's API reference")
