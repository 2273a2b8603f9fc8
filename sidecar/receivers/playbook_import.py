"""`POST /playbooks/import`: imports entries exported by another observer, or written by a person, after checking each.

All or none are imported. Ids follow from the content. States, coins and measured effects are not imported: each entry
becomes a candidate that nobody has approved here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import falcon
import falcon.asgi
import msgspec
from msgspec import Meta

from sidecar.call_fields import fact_name
from sidecar.errors import InvalidInputError
from sidecar.model_learning import EntryKind, PlaybookEntry, Range, Term
from sidecar.protocols import PlaybookKeeper
from sidecar.receivers.bodies import BodyReader, parse_json

MAX_IMPORT_BYTES: Final = 4 * 2**20
FORMAT: Final = "observer.playbook/1"
_FIX = "Correct it, or take the file as `observer playbook export` wrote it"
_MOST_NUMBER = 2**53
_MAX_VALUE = 60  # characters of a text in `when` and `set`

Name = Annotated[str, Meta(min_length=1, max_length=60)]
Reference = Annotated[str, Meta(max_length=64)]
Id = Annotated[str, Meta(pattern="^pb-[0-9a-f]{12}$")]
Terms = Annotated[dict[Name, Term], Meta(max_length=8)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Rate = Annotated[float, Meta(ge=0, le=1)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields read of an entry. Those of type Any are the other observer's own, and ignored."""

    kind: EntryKind
    endpoint: Annotated[str, Meta(min_length=1, max_length=256)]
    text: Annotated[str, Meta(min_length=1, max_length=500)]
    playbook_id: Id | None = None
    when: Terms = {}
    set: Terms = {}
    scope: Annotated[list[Annotated[str, Meta(max_length=200)]], Meta(max_length=8)] = []
    came_from: Annotated[list[Id], Meta(max_length=32)] = []
    evidence: Annotated[list[tuple[Reference, Reference]], Meta(max_length=100)] = []
    rate: Rate | None = None
    other_rate: Rate | None = None
    calls: Count = 0
    other_calls: Count = 0
    successes: Count = 0
    avg_duration_ms: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    version: Any = None
    at: Any = None
    author: Any = None
    plain: Any = None
    state: Any = None
    approved: Any = None
    measured: Any = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    entries: Annotated[list[msgspec.Raw], Meta(max_length=1000)]
    exported_at: str = ""


class ImportResource:
    """`POST /playbooks/import`. *entry_id* makes the id from kind, endpoint and scope; *clean* masks credentials."""

    scope = "admin"

    def __init__(
        self,
        playbook: PlaybookKeeper,
        bodies: BodyReader,
        entry_id: Callable[..., str],
        clean: Callable[[str], str],
    ) -> None:
        self._playbook = playbook
        self._bodies = bodies
        self._entry_id = entry_id
        self._clean = clean

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"imported": [ids], "known": n}` once all are in the journal; 422 names the first invalid entry."""
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
        entries = self._entries(body)
        imported = await self._playbook.take_over(entries)
        resp.media = {"imported": imported, "known": len(entries) - len(imported)}

    def _entries(self, body: bytes) -> list[PlaybookEntry]:
        parse_json(body)  # reports invalid JSON as the other doors do
        try:
            file = msgspec.json.decode(body, type=_File)
        except msgspec.MsgspecError as exc:
            raise InvalidInputError("the import is not usable", str(exc), _FIX) from exc
        if file.format != FORMAT:
            raise InvalidInputError(f"format is {file.format[:40]!r}", f"expected {FORMAT!r}", _FIX)
        return [self._entry(number, raw) for number, raw in enumerate(file.entries)]

    def _entry(self, number: int, raw: msgspec.Raw) -> PlaybookEntry:
        try:
            found = msgspec.json.decode(raw, type=_Entry)
        except msgspec.MsgspecError as exc:
            raise InvalidInputError(f"entry {number} is not usable", str(exc), _FIX) from exc
        wrong = _wrong(found)
        if wrong is not None:
            raise InvalidInputError(f"entry {number} is not usable", wrong, _FIX)
        entry_id = self._entry_id(found.kind, found.endpoint, *sorted(found.scope or _scope(found)))
        if found.playbook_id is not None and found.scope and found.playbook_id != entry_id:
            raise InvalidInputError(
                f"entry {number} is not usable", f"its id is {entry_id} by its content, not {found.playbook_id}", _FIX
            )
        return PlaybookEntry(
            playbook_id=found.playbook_id or entry_id,
            version=1,
            at="",
            kind=found.kind,
            endpoint=self._clean(found.endpoint),
            text=self._clean(found.text),
            successes=found.successes,
            avg_duration_ms=found.avg_duration_ms,
            evidence=found.evidence,
            when={fact_name(name): term for name, term in found.when.items()},
            set={fact_name(name): term for name, term in found.set.items()},
            rate=found.rate,
            other_rate=found.other_rate,
            calls=found.calls,
            other_calls=found.other_calls,
            author="import",
            scope=found.scope,
            came_from=found.came_from,
        )


def _wrong(entry: _Entry) -> str | None:
    texts = [entry.endpoint, entry.text, *entry.scope, *entry.when, *entry.set]
    for term in (*entry.when.values(), *entry.set.values()):
        if isinstance(term, str):
            if len(term) > _MAX_VALUE:
                return f"a value has more than {_MAX_VALUE} characters"
            texts.append(term)
        elif isinstance(term, Range) and term.above is None and term.up_to is None:
            return "a range has no bound"
        elif isinstance(term, int | float) and not -_MOST_NUMBER <= term <= _MOST_NUMBER:
            return f"{term:g} is beyond what every reader of JSON can hold"
    strange = next((each for each in texts if not each.isprintable()), None)
    return f"{strange[:40]!r} has control characters" if strange is not None else None


def _scope(entry: _Entry) -> list[str]:
    """A substitute for the scope of an entry that a person wrote, from its conditions."""
    return [f"{where}.{name}={_json(term)}" for where, each in _parts(entry) for name, term in each.items()]


def _parts(entry: _Entry) -> tuple[tuple[str, Mapping[str, Term]], ...]:
    return ("when", entry.when), ("set", entry.set)


def _json(term: Any) -> str:
    return msgspec.json.encode(term, order="sorted").decode()
