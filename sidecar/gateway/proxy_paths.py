"""Restricts the paths that may be called. A path that some server could resolve to another one is refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

from sidecar.gateway.proxy_refusal import RefusedError

_PATH_OVERRIDES = frozenset([b"x-original-url", b"x-rewrite-url"])  # some servers use them instead of the target
_ODD = ("\0", "#", "%u")


class AllowedPaths:
    """The allowed path prefixes, matched by whole segments. None: all paths are allowed.

    *within* is the path of the gateway itself, "" if it has none: no path may lead out of that either.
    """

    def __init__(self, paths: Iterable[bytes], within: str = "") -> None:
        self._paths = tuple(paths)
        self._setting = "OBSERVER_PROXY_PATHS" if self._paths else "GATEWAY_URL"
        if within:
            self._paths = self._paths or (b"/",)

    def check(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raises RefusedError if *target*, raw or decoded, is not below one of the paths, or *headers* name another."""
        if not self._paths:
            return
        if not self._allows(target):
            raise RefusedError(403, "Forbidden", f"this path is not in {self._setting}")
        for name, _ in headers:
            if name.lower() in _PATH_OVERRIDES:
                raise RefusedError(403, "Forbidden", f"no header may name a path while {self._setting} does")

    def _allows(self, target: bytes) -> bool:
        path = target.split(b"?", 1)[0]
        plain = unquote_to_bytes(unquote_to_bytes(path)).replace(b"\\", b"/")
        if unquote_to_bytes(plain) != plain or _leads_out(plain):
            return False
        return any(_has_prefix(path, prefix) and _has_prefix(plain, prefix) for prefix in self._paths)


def _leads_out(plain: bytes) -> bool:
    try:
        text = unicodedata.normalize("NFKC", plain.decode())  # as some servers do: full-width dots become dots
    except UnicodeDecodeError:  # such as an overlong encoding of a dot
        return True
    if any(odd in text for odd in _ODD):  # servers differ in how they read these
        return True
    return any(segment.split(";")[0].strip() in (".", "..") for segment in text.split("/"))  # some servers cut at `;`


def _has_prefix(path: bytes, prefix: bytes) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith(b"/") else prefix + b"/")
