"""The gateway's address taken apart, for all that call the gateway or recognise calls to it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, urlsplit

_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"  # that a path may hold as they are, besides letters and digits: RFC 3986, 3.3


class GatewayAddress(NamedTuple):
    """*authority* is host and port as given, *path* what comes before the path of each call: "" or `/api`."""

    scheme: str
    authority: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> GatewayAddress:
        """The address at *url*. Query, fragment and user info are no part of it. Raises ValueError."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        path = quote(parts.path.rstrip("/"), safe=_PATH_CHARACTERS)
        return cls(parts.scheme, parts.netloc.rpartition("@")[2], parts.hostname or "", port, path)

    @property
    def url(self) -> str:
        """The address as a URL, with its port."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path}"

    def below(self, target: bytes) -> bytes | None:
        """*target*, a path with or without a query, counted from `path`; None if it is not below it."""
        path = self.path.encode()
        rest = target[len(path) :]
        if not target.startswith(path) or rest[:1] not in (b"", b"/", b"?"):
            return None
        return rest if rest.startswith(b"/") else b"/" + rest
