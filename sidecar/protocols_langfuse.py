"""The interfaces between the Langfuse rooms: doors, the desk behind them, and the way to a Langfuse server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sidecar.model import Fragment, LangfuseTold, ObservedOp, Score
from sidecar.protocols import Promise


class FragmentOps(Protocol):
    """Reads a Langfuse observation. Implementation: `spans.fragment_reader`."""

    def op_of(self, fragment: Fragment) -> ObservedOp | None:
        """The op, in the normal form, of the complete observation *fragment*; None if it is no operation."""
        ...


class LangfuseInbox(Protocol):
    """Takes Langfuse observations and scores. Implementation: `langfuse.desk`."""

    async def take(self, told: LangfuseTold) -> None:
        """Return once *told* is on disk and its complete items are recorded as ops. Raises RetryableError."""
        ...

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        """Return once the pulled observations are ops, or on disk if they change what is known. Raises RetryableError.

        Those that bring no news are skipped.
        """
        ...

    async def scored(self, scores: Sequence[Score]) -> None:
        """Return once the pulled scores are on disk; known ones are skipped. Raises RetryableError."""
        ...


class LangfuseForward(Protocol):
    """Forwards Langfuse clients' requests to Langfuse. Implementation: `export.langfuse_forward`."""

    def put(self, path: str, headers: dict[str, str], body: bytes, items: int) -> Promise | None:
        """Queue a POST of *items* items to *path* of Langfuse's API. Returns its receipt; None if there is no room."""
        ...


class RelayedAnswer(NamedTuple):
    """Langfuse's response; *error* says why there is none."""

    status: int
    media: str
    body: bytes
    error: str


class LangfuseAnswers(Protocol):
    """Relays SDK requests to Langfuse. Implementation: `export.langfuse_relay`."""

    async def ask(self, method: str, target: str, media: str, body: bytes) -> RelayedAnswer:
        """Make one bounded attempt; *target* is path and query, *media* the content type of *body*. Never raises."""
        ...
