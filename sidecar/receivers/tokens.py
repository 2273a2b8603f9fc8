"""Tokens with scopes, from one setting or from a file that is reloaded when it changes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

import structlog

from sidecar.errors import SettingsError
from sidecar.protocols import Clock

log = structlog.get_logger(__name__)

SCOPES = frozenset({"ingest", "advice", "read", "admin"})
_LOOK_EVERY_S = 1.0
_FIX = "Each line is `TOKEN scope,scope` with scopes from " + ", ".join(sorted(SCOPES))


class TokenStore:
    """Tokens are kept as SHA-256 digests and compared in constant time. Used on the event loop's thread only."""

    def __init__(self, token: str, token_file: str, clock: Clock) -> None:
        """Load the tokens. Raises SettingsError if *token_file* cannot be read or parsed."""
        self._fixed = {_digest(token): SCOPES} if token else {}
        self._path = Path(token_file) if token_file else None
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = clock.monotonic()
        self._from_file: dict[bytes, frozenset[str]] = {}
        if self._path is not None:
            self._seen = _version(self._path)
            self._from_file = _read(self._path)

    @property
    def required(self) -> bool:
        """Whether callers need a token."""
        return bool(self._fixed) or self._path is not None

    @property
    def known(self) -> int:
        """How many tokens there are."""
        return len(self._fixed) + len(self._from_file)

    def scopes(self, authorization: str | None) -> frozenset[str] | None:
        """The caller's scopes; None if its `Authorization` header has no known token.

        Accepts Bearer, and Basic with the token as password, as Langfuse clients send it.
        """
        token = _shown(authorization or "")
        if not token:
            return None
        self._look_again()
        digest = _digest(token)
        found: frozenset[str] | None = None
        for known, scopes in (*self._fixed.items(), *self._from_file.items()):
            if hmac.compare_digest(known, digest):
                found = scopes
        return found

    def _look_again(self) -> None:
        if self._path is None or self._clock.monotonic() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = self._clock.monotonic()
        try:
            version = _version(self._path)
            if version != self._seen:
                self._from_file = _read(self._path)
                self._seen = version
                log.info("tokens.reloaded", tokens=len(self._from_file))
        except SettingsError as exc:  # half-written or gone: the tokens known so far stay valid
            log.warning("tokens.not_reloaded", error=str(exc))


def _shown(authorization: str) -> str:
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _version(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as exc:
        raise SettingsError(f"the token file {path} cannot be read", exc.strerror or str(exc), _FIX) from exc
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _read(path: Path) -> dict[bytes, frozenset[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the token file {path} cannot be read", str(exc), _FIX) from exc
    tokens: dict[bytes, frozenset[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        token, _, named = line.strip().partition(" ")
        scopes = frozenset(scope.strip() for scope in named.split(",") if scope.strip())
        if not scopes or not scopes <= SCOPES:
            raise SettingsError(f"line {number} of {path} is not usable", "its scopes are missing or unknown", _FIX)
        tokens[_digest(token)] = scopes
    return tokens
