"""Restricts the paths that may be called. A path that some server could resolve to another one is refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

from sidecar.gateway.proxy_refusal import RefusedError

_PATH_OVERRIDES = frozenset([b"x-original-url", b"x-rewrite-url"])  # some servers use them instead of the target
_ODD = ("\0", "#", "%u")
_MOST_CODED = 4  # times that a path may be percent-encoded before it counts as leading anywhere
_OVERLONG = re.compile(rb"(?:\xc0|\xe0\x80|\xf0\x80\x80)[\xae\xaf]|(?:\xc1|\xe0\x81|\xf0\x80\x81)\x9c")
"""Dot, slash and backslash in more bytes of UTF-8 than they need: some servers decode them all the same."""
_CODED_WIDE = re.compile("%u([0-9A-Fa-f]{4})")
_CUT = re.compile("[;#?\0]")  # where some servers cut a segment or the path, decoded or not


class AllowedPaths:
    """The allowed path prefixes, matched by whole segments. None: all paths are allowed.

    *within* is the path of the gateway itself, "" if it has none: no path may lead out of that either. A listed path is
    an express limit, so whatever servers read differently is refused. Where only the gateway's address has a path,
    most calls need no fence: those alone are refused that could lead out.
    """

    def __init__(self, paths: Iterable[bytes], within: str = "") -> None:
        self._paths = tuple(paths)
        self._within = within

    def check(self, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Raises RefusedError if *target*, raw or decoded, is not below one of the paths, or *headers* name another."""
        if not self._paths and not self._within:
            return
        path = target.split(b"?", 1)[0]
        if self._paths and not self._allows(path):
            raise RefusedError(403, "Forbidden", "this path is not in OBSERVER_PROXY_PATHS")
        if not self._paths and _could_lead_out(path):
            raise RefusedError(403, "Forbidden", "this path could lead out of the path of GATEWAY_URL")
        for name, _ in headers:
            if name.lower() in _PATH_OVERRIDES:
                setting = "OBSERVER_PROXY_PATHS" if self._paths else "GATEWAY_URL"
                raise RefusedError(403, "Forbidden", f"no header may name a path while {setting} does")

    def _allows(self, path: bytes) -> bool:
        plain = unquote_to_bytes(unquote_to_bytes(path)).replace(b"\\", b"/")
        if unquote_to_bytes(plain) != plain or _is_odd(plain):
            return False
        return any(_has_prefix(path, prefix) and _has_prefix(plain, prefix) for prefix in self._paths)


def _could_lead_out(path: bytes) -> bool:
    """Whether some server could find a segment `..` in *path*."""
    if b"%" not in path and path.isascii() and b".." not in path:
        return False  # nearly all
    for _ in range(_MOST_CODED):
        path, coded = unquote_to_bytes(path), path
        if path == coded:
            break
    else:
        return True
    if _OVERLONG.search(path) is not None:
        return True
    text = _CODED_WIDE.sub(lambda found: chr(int(found[1], 16)), path.decode(errors="ignore"))
    segments = unicodedata.normalize("NFKC", text).replace("\\", "/").split("/")
    return any(_CUT.split(segment, maxsplit=1)[0].strip() == ".." for segment in segments)


def _is_odd(plain: bytes) -> bool:
    """Whether servers differ in how they read *plain*, or it has a dot segment."""
    try:
        text = unicodedata.normalize("NFKC", plain.decode())  # as some servers do: full-width dots become dots
    except UnicodeDecodeError:  # such as an overlong encoding of a dot
        return True
    if any(odd in text for odd in _ODD):  # servers differ in how they read these
        return True
    return any(segment.split(";")[0].strip() in (".", "..") for segment in text.split("/"))  # some servers cut at `;`


def _has_prefix(path: bytes, prefix: bytes) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith(b"/") else prefix + b"/")
