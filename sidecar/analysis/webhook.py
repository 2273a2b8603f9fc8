"""Notifies a webhook of incidents that are new, escalating or regressed, through an outbox that retries until accepted.

The post is a function of the decision alone: after a crash between decision and post it is sent with the same key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from sidecar.analysis.fingerprint import one_line
from sidecar.analysis.incident_rows import Step, step_of
from sidecar.model import IncidentChange, IncidentChanges
from sidecar.protocols_posts import PostSink

log = structlog.get_logger(__name__)

KIND: Final = "webhook"
TO: Final = "webhook"
"""Stands for the address in the outbox: the real one may hold a secret, and may change while posts wait."""
TOLD: Final = frozenset({"new", "regressed", "escalating"})
_MAX_TEXT: Final = 300
_OURS: Final = frozenset({"by", "judged_from"})


class Webhook:
    """Queues one post for each change worth a notification that still *holds* after the decision."""

    def __init__(self, outbox: PostSink, holds: Callable[[str, Step], bool]) -> None:
        self._outbox = outbox
        self._holds = holds

    def tell(self, decision_body: bytes | msgspec.Raw) -> None:
        """Queue posts for the changes of a journalled decision. Raises msgspec.MsgspecError."""
        decision = msgspec.json.decode(decision_body, type=IncidentChanges)
        for change in decision.changes:
            if change.state not in TOLD or not self._holds(change.fingerprint, step_of(change, decision.at)):
                continue
            try:
                self._outbox.put_again(KIND, entry_of(change, decision.at), decision.at, TO)
            except Exception:  # one bad post must not stop the others
                log.exception("webhook.not_told", fingerprint=change.fingerprint)

    async def test(self, at: str) -> None:
        """Queue a test post. Raises RetryableError."""
        text = "Test of the Lakehouse Observer's webhook: no incident"
        await self._outbox.put(KIND, {"event": "test", "at": at, "text": text}, TO)


def entry_of(change: IncidentChange, at: str) -> dict[str, Any]:
    """The body of the post: `event`, `at`, `text` (one line, as chat tools show it) and `incident`."""
    times = "failure" if change.count == 1 else "failures"
    if change.kind == "slow":
        times = "slow calls"
    text = f"{change.state} incident: {one_line(change.endpoint, 80)}: {one_line(change.message, 160)} "
    incident = msgspec.to_builtins(change)
    return {
        "event": f"incident.{change.state}",
        "at": at,
        "text": (text + f"({change.count} {times} since {change.first_seen})")[:_MAX_TEXT],
        "incident": {name: value for name, value in incident.items() if name not in _OURS},
    }
