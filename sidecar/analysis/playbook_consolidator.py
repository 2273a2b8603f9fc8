"""Turns endpoints that keep succeeding into playbook entries, with a new version whenever the successes have doubled.

Reads successes from `SuccessBook`, and from the playbook which of them are already recorded. An entry is written to the
decision journal first, with a span that links to its evidence. Once written it is put into the playbook, live and in a
replay, and `tell` queues a post for the gateway's log.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import msgspec
import structlog
from opentelemetry.trace import Tracer

from sidecar.analysis.evidence import links_to
from sidecar.analysis.fingerprint import one_line
from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.success_book import MAX_INPUT, EndpointSuccesses, SuccessBook
from sidecar.call_fields import NOTHING_SAID
from sidecar.clock import rfc3339_ms
from sidecar.errors import ObserverError
from sidecar.model_learning import NO_PATTERN, PATTERN, PlaybookEntry, is_bare
from sidecar.protocols import Clock, DecisionLog
from sidecar.protocols_posts import PostSink
from sidecar.spans.attributes import PLAYBOOK_ID, PLAYBOOK_TEXT, PLAYBOOK_VERSION

log = structlog.get_logger(__name__)

DECISION_KIND: Final = "playbook"
KIND_DO: Final = "do"
LEAST_IN_ALL: Final = 5
LEAST_OF_ENDPOINT: Final = 3
MAX_PATTERN: Final = 200  # characters
MAX_WRITTEN: Final = 100  # entries of one call


class PlaybookConsolidator:
    """Writes at most 100 entries per call, one version for each doubling of an endpoint's successes."""

    def __init__(
        self,
        book: SuccessBook,
        playbook: PlaybookBook,
        decisions: DecisionLog,
        *,
        outbox: PostSink,
        tracer: Tracer,
        clock: Clock,
    ) -> None:
        self._book = book
        self._playbook = playbook
        self._decisions = decisions
        self._tracer = tracer
        self._clock = clock
        self._outbox = outbox
        self.written = 0
        self.failed = 0  # entries that could not be written

    async def consolidate(self) -> None:
        """Write an entry for each endpoint that has enough new successes."""
        rows = self._book.endpoints()
        if sum(row.successes for row in rows) >= LEAST_IN_ALL:
            due = [row for row in rows if self._is_due(row)]
            await self._write_all(due[:MAX_WRITTEN])

    def tell(self, decision_body: bytes | msgspec.Raw) -> None:
        """Queue the post of a journalled entry for the gateway's log. Raises msgspec.MsgspecError."""
        entry = msgspec.json.decode(decision_body, type=PlaybookEntry)
        if entry.author != "successes":
            return
        try:
            self._outbox.put_again(DECISION_KIND, _post(entry), entry.at)
        except Exception:  # one bad post must not stop the others
            log.exception("playbook.not_told", playbook_id=entry.playbook_id)

    async def _write_all(self, rows: list[EndpointSuccesses]) -> None:
        for row in rows:
            try:
                await self._write(row)
                self.written += 1
            except ObserverError as exc:  # the journal failed: it would not accept the others either
                self.failed += 1
                log.warning("playbook.not_written", error=str(exc), endpoint=row.endpoint)
                return
            except Exception:  # one bad endpoint must not stop the others
                self.failed += 1
                log.exception("playbook.not_written", endpoint=row.endpoint)

    async def _write(self, row: EndpointSuccesses) -> None:
        entry = self._entry(row)
        attributes: dict[str, str | int] = {
            PLAYBOOK_ID: entry.playbook_id,
            PLAYBOOK_VERSION: entry.version,
            PLAYBOOK_TEXT: entry.text,
        }
        with self._tracer.start_as_current_span(
            "observer.playbook", links=links_to(entry.evidence), attributes=attributes
        ):
            await self._decisions.decide(DECISION_KIND, entry, self._book.last_op_id)

    def _is_due(self, row: EndpointSuccesses) -> bool:
        last = self._playbook.entry(playbook_id(KIND_DO, row.endpoint))
        return row.successes >= (2 * last.successes if last is not None else LEAST_OF_ENDPOINT)

    def _entry(self, row: EndpointSuccesses) -> PlaybookEntry:
        entry_id = playbook_id(KIND_DO, row.endpoint)
        last = self._playbook.entry(entry_id)
        return PlaybookEntry(
            playbook_id=entry_id,
            version=last.version + 1 if last is not None else 1,
            at=rfc3339_ms(self._clock.time_ns()),
            kind=KIND_DO,
            endpoint=row.endpoint,
            text=_pattern(row),
            successes=row.successes,
            avg_duration_ms=row.avg_duration_ms,
            evidence=list(row.evidence),
        )


def playbook_id(kind: str, endpoint: str, *conditions: str) -> str:
    """The id of the entry of this *kind* for this scope, derived from these alone."""
    content = msgspec.json.encode([kind, endpoint, *conditions])
    return "pb-" + hashlib.sha256(content).hexdigest()[:12]


def _pattern(row: EndpointSuccesses) -> str:
    """A text of the last inputs that say more than the endpoint's name."""
    told = [
        each
        for each in row.inputs
        if each.strip() not in ("", row.endpoint, NOTHING_SAID) and not is_bare(each, row.endpoint)
    ]
    pattern = "; ".join(one_line(each, MAX_INPUT) for each in told)
    return PATTERN + pattern[:MAX_PATTERN] if pattern else NO_PATTERN


def _post(entry: PlaybookEntry) -> dict[str, str]:
    endpoint = one_line(entry.endpoint, len(entry.endpoint))
    return {
        "operation": f"consolidated: {entry.successes} successful {endpoint} calls",
        "approach": entry.text,
        "result": f"avg_duration={math.floor(entry.avg_duration_ms + 0.5)}ms, {entry.successes} successes",
        "context": f"endpoint={endpoint}",
    }
