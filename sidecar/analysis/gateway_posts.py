"""What the observer learnt and the gateway has not taken yet: tried again in later cycles, within a bound."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

import msgspec
import structlog

from sidecar.errors import ObserverError
from sidecar.protocols import GatewayLog

log = structlog.get_logger(__name__)

MAX_WAITING: Final = 100
_MAX_FAILURES = 3  # of one flush: a gateway that is down is not asked a hundred times, each with a time-out


class GatewayPosts:
    """Posts waiting for the gateway, oldest first. A full queue loses its oldest, counted in `lost`.

    A post that fails goes behind the others, so that one the gateway never takes does not hold them up.
    """

    def __init__(self, gateway_log: GatewayLog) -> None:
        self._gateway_log = gateway_log
        self._waiting: deque[tuple[str, dict[str, str]]] = deque()
        self.posted = 0
        self.failed = 0  # attempts
        self.lost = 0
        self._refused = False  # the last attempt failed: said once, not at every attempt

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: dict[str, str]) -> None:
        """Have *entry* posted at the next flush; the same content has the same idempotency key."""
        if len(self._waiting) == MAX_WAITING:
            _, oldest = self._waiting.popleft()
            self.lost += 1
            log.error("gateway_post.lost", operation=oldest["operation"], lost=self.lost)
        self._waiting.append((_key(entry), entry))

    async def flush(self) -> None:
        """Try each waiting post once, until three have failed. Raises nothing but cancellation."""
        failures = 0
        for _ in range(len(self._waiting)):
            post = self._waiting[0]
            if await self._taken(*post):
                self.posted += 1
                self._waiting.remove(post)  # not before: a flush that is cut short loses none
                continue
            self._waiting.rotate(-1)
            failures += 1
            if failures == _MAX_FAILURES:
                return

    async def _taken(self, key: str, entry: dict[str, str]) -> bool:
        try:
            await self._gateway_log.post(key, entry)
        except ObserverError as exc:
            self.failed += 1
            if not self._refused:
                log.warning("gateway_post.failed", error=str(exc), waiting=len(self._waiting))
            self._refused = True
        except Exception:  # one poison post must not hold up the others
            self.failed += 1
            log.exception("gateway_post.failed", waiting=len(self._waiting))
        else:
            if self._refused:
                log.info("gateway_post.recovered", waiting=len(self._waiting) - 1)
            self._refused = False
            return True
        return False


def _key(entry: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(entry, order="sorted")).hexdigest()[:32]
