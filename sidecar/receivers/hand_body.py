"""The body of a person's decision on an incident or an entry: who decides, why, and on which version."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from sidecar.errors import InvalidInputError
from sidecar.receivers.bodies import parse_json

MAX_BODY_BYTES: Final = 16 * 1024
MAX_NOTE, MAX_BY = 1000, 100  # characters
SOMEONE = "someone"  # who decided, if they did not say
_FIX: Final = 'Send {"by": "…", "note": "…"}, or nothing'


class Said(NamedTuple):
    """Who decides, and why; both may be empty. *version*: that of an entry, if one was named."""

    by: str = ""
    note: str = ""
    version: int | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    by: str = ""
    note: str = ""
    why: str = ""


class _VersionedBody(_Body, forbid_unknown_fields=True):
    version: int | float | None = None


def said_by_hand(body: bytes, *, versioned: bool = False) -> Said:
    """Parse *body*; `why` is an alias of `note`. Raises MalformedError, InvalidInputError."""
    if not body.strip():
        return Said()
    try:
        said = msgspec.convert(parse_json(body), type=_VersionedBody if versioned else _Body)
    except msgspec.ValidationError as exc:
        raise InvalidInputError("the body is not usable", str(exc), _FIX) from exc
    if said.note and said.why:
        raise InvalidInputError("note and why are both given", "they are two names for one thing", "Give one of them")
    note, by = (said.note or said.why).strip(), said.by.strip()
    for name, text, most in (("by", by, MAX_BY), ("note", note, MAX_NOTE)):
        if len(text) > most:
            raise InvalidInputError(f"{name} is too long", f"at most {most} characters are kept", "Say it shorter")
    if by == "observer":
        raise InvalidInputError(
            "by='observer' is not usable", "the observer's own decisions have that name", "Give your own name"
        )
    return Said(by, note, _version(said.version) if isinstance(said, _VersionedBody) else None)


def _version(said: float | None) -> int | None:
    if said is None:
        return None
    if said < 1 or said != int(said):  # 3.0 is a whole number in JSON
        raise InvalidInputError(
            "version is not usable", "expected a whole number from 1", "See the entry's own versions"
        )
    return int(said)
