"""Route templates: paths with their variable segments folded, so that similar calls share one of few endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from sidecar.gateway_address import GatewayAddress

_MOST_NAMES = 1000
_MOST_SEGMENTS = 16
_MOST_TARGET = 2048  # bytes that are used; they also are the cache's keys
_MOST_SEGMENT = 64  # characters
_ID = "{id}"
_MORE = "{more}"
_VARIES = re.compile(
    r"[+-]?\d[\d.,:_-]*"  # numbers, dates, versions without a letter
    r"|(?:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})"
    r"|(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{8,}"
    r"|\d{4}-\d\d-\d\dT.*"
    r"|(?=.*\d)[A-Za-z0-9_~.=-]{20,}"  # long, with a digit
    r"|[A-Za-z]{1,12}[_-]?\d{3,}"  # HAT030, order_4711 and W2378156, but not gift_card
    r"|(?:[A-Za-z]{1,12}_){1,3}\d{3,}"
    r"|.*@.*"
)


_CALL = re.compile(r"(?:[A-Z]{3,7} )?(?:https?://[^/?#]*)?(?P<target>/.*)", re.DOTALL)


def templates_of(call: str, gateway: GatewayAddress | None = None) -> Iterator[str]:
    """The names that *call* may have as an endpoint, the exact one first; none if it is no path.

    It may also have a method, a host, a query, and before its own path that of the *gateway*.
    """
    found = _CALL.fullmatch(call)
    if found is not None:
        target = found["target"].encode("utf-8", "replace")
        template = _template(target if gateway is None else gateway.below(target) or target)
        yield template
        yield _coarse(template)
        yield f"/{_MORE}"


class Templates:
    """Maps paths to templates. After *most* distinct names, further paths share coarser templates."""

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, target: bytes) -> str:
        """The template of a request's raw *target*."""
        return self.bounded(_template(target))

    def bounded(self, name: str) -> str:
        """*name* if it is known or room is left; else its first segment and `/{more}`, or `/{more}` alone."""
        if name in self._known:
            return name
        if len(self._known) < self._most:
            self._known.add(name)
            return name
        coarse = _coarse(name)
        first = coarse.removesuffix(f"/{_MORE}")
        if coarse in self._known or (first in self._known and len(self._known) < self._most * 2):
            self._known.add(coarse)
            return coarse
        return f"/{_MORE}"


def _template(target: bytes) -> str:
    return _folded(re.split(rb"[?#]", target[:_MOST_TARGET], maxsplit=1)[0])


def _coarse(template: str) -> str:
    return "/".join([*template.split("/", 2)[:2], _MORE])


@lru_cache(maxsize=1024)
def _folded(path: bytes) -> str:
    segments = path.decode("latin-1").split("/")
    if len(segments) > _MOST_SEGMENTS:
        segments = [*segments[:_MOST_SEGMENTS], _MORE]
    return "/".join(_segment(segment) for segment in segments)


def _segment(segment: str) -> str:
    if len(segment) > _MOST_SEGMENT or _VARIES.fullmatch(segment):
        return _ID if segment != "{more}" else segment
    return segment
