"""`GET /`: a page that shows a running observer, live. It contains no data: its script asks the reading doors.

It loads nothing from elsewhere, and its policy lets the browser run only this style and script, identified by hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

import falcon
import falcon.asgi

_PAGE: Final = Path(__file__).with_name("status.html")


class StatusPage:
    """The page is open to anyone who reaches the door; the data behind it may require a token with the scope `read`."""

    scope = None

    def __init__(self, page: Path = _PAGE) -> None:
        text = page.read_text(encoding="utf-8")
        self._body = text.encode()
        self._policy = _policy(text)

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Respond with the page."""
        resp.content_type = "text/html; charset=utf-8"
        resp.data = self._body
        resp.cache_control = ["no-cache"]
        resp.set_header("Content-Security-Policy", self._policy)
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Referrer-Policy", "no-referrer")


def _policy(page: str) -> str:
    """The Content-Security-Policy: only the page's own style and script; positions set by the script work too."""
    return (
        f"default-src 'none'; connect-src 'self'; script-src '{_hash_of('script', page)}'; "
        f"style-src '{_hash_of('style', page)}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash_of(element: str, page: str) -> str:
    found = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    inside = found[1] if found is not None else ""
    return "sha256-" + base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
