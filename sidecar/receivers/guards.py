"""The guard of every HTTP door: checks the caller's token, and the names used to reach us (`Host`, `Origin`).

The `Host` check defeats DNS rebinding: a web page cannot reach the observer by a DNS name that it points at loopback.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from sidecar.receivers.tokens import TokenStore


class Guard:
    """Falcon middleware. A resource's `scope` is the scope a token needs; None: anyone (health); default: `admin`."""

    def __init__(self, tokens: TokenStore, allowed_hosts: Iterable[str]) -> None:
        self._tokens = tokens
        self._names = {"localhost", *(name.strip().lower().rstrip(".") for name in allowed_hosts)} - {""}
        self._good_hosts: set[str] = set()  # `Host` values accepted before: a bounded cache
        self.refused = 0

    async def process_resource(
        self, req: falcon.asgi.Request, _resp: falcon.asgi.Response, resource: object, _params: dict[str, str]
    ) -> None:
        """Refuse a foreign `Host` (421), none or two (400), a foreign `Origin` or page (403), a missing token or scope.

        HTTP/1.0 has no `Host`, and load balancers check health with it. No browser speaks it, so no page can.
        """
        headers = req.headers  # fetched once: each Falcon look-up costs more, most of all for absent headers
        host = headers.get("host", "")
        hosts = [name for name, _ in req.scope["headers"]].count(b"host")
        if hosts != 1 and (hosts or req.scope["http_version"] != "1.0"):
            self.refused += 1
            raise falcon.HTTPBadRequest(description=f"the request has {hosts or 'no'} Host headers: send one")
        if hosts and host not in self._good_hosts:
            self._check_host(host)
        origin = headers.get("origin")
        if origin is not None and (not host or _netloc(origin) != host.lower()):
            self.refused += 1
            raise falcon.HTTPForbidden(description=f"Origin {origin[:80]!r} is foreign; web pages have no access")
        scope = getattr(resource, "scope", "admin")
        if scope is None:
            return
        if "sec-fetch-site" in headers:
            self._check_page(headers)
        if self._tokens.required:
            self._check_token(headers.get("authorization"), scope)

    def _check_host(self, host: str) -> None:
        if not self._is_ours(host):
            self.refused += 1
            raise falcon.HTTPError(
                421, description=f"Host {host[:80]!r} is not a name of this observer; see OBSERVER_ALLOWED_HOSTS"
            )
        if len(self._good_hosts) < 100:
            self._good_hosts.add(host)

    def _check_page(self, headers: Mapping[str, str]) -> None:
        """Refuse requests that a foreign page makes without `Origin`, such as for an `<img>`, by `Sec-Fetch-Site`.

        A person who follows a link from another site still gets the page.
        """
        is_foreign = headers["sec-fetch-site"] not in ("same-origin", "none")
        if is_foreign and headers.get("sec-fetch-dest") != "document":
            self.refused += 1
            raise falcon.HTTPForbidden(description="the page that asks is foreign; web pages have no access")

    def _check_token(self, authorization: str | None, scope: str) -> None:
        scopes = self._tokens.scopes(authorization)
        if scopes is None:
            self.refused += 1
            raise falcon.HTTPUnauthorized(
                description=(
                    "a token is needed: send Authorization: Bearer TOKEN"
                    if authorization is None
                    else "this token is not known: look at OBSERVER_TOKEN or OBSERVER_TOKEN_FILE"
                ),
                challenges=['Bearer realm="observer"'],
            )
        if scope not in scopes:
            self.refused += 1
            raise falcon.HTTPForbidden(description=f"this token lacks the scope {scope!r}")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self._names:
            return True
        try:  # an IP address needs no DNS look-up, so no foreign name server can have pointed it here
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _netloc(origin: str) -> str:
    """Host and port of an `Origin` header in lower case; "" for `null` and malformed values."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
