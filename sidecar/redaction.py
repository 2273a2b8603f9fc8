"""Credentials are masked once, before an op exists: journal, spans, prompts and logs only ever see the rest.

Known token shapes are masked wherever they stand in a text; `name=value` and `"name": "value"` are masked for the
names below and those the user adds. Masking twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "[redacted]"

_NAMES = (
    "access_token",
    "api_key",
    "apikey",
    "auth_token",
    "authorization",
    "client_secret",
    "cookie",
    "id_token",
    "passwd",
    "password",
    "private_key",
    "proxy_authorization",
    "refresh_token",
    "secret",
    "secret_key",
    "session_token",
    "set_cookie",
    "token",
    "x_api_key",
)
_SHAPES = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # JSON web token
    r"\b(?:sk|rk|pk)-[\w-]{16,}",  # OpenAI, Anthropic, Langfuse and like keys
    r"\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}",
    r"\bxox[abeoprs]-[\w-]{10,}",  # Slack
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\bAIza[\w-]{30,}",  # Google
    r"\bhf_\w{20,}",  # Hugging Face
)
_HINTS = ("-----BEGIN", "eyJ", "sk-", "rk-", "pk-", "gh", "glpat-", "xox", "AKIA", "ASIA", "AIza", "hf_")


class Redactor:
    """Masks credentials in text and by field name. Stateless after construction, safe from any thread."""

    def __init__(self, extra_names: Iterable[str] = ()) -> None:
        names = {*_NAMES, *(_plain(name) for name in extra_names if name.strip())}
        self._names = frozenset(names)
        # The cheap test first: most texts hold no credential, and `in` is far cheaper than a regular expression.
        self._words = tuple(sorted({re.split(r"[_ ]", name)[-1] for name in names} | {"bearer ", "basic ", "://"}))
        spelled = "|".join(re.escape(name).replace("_", "[_ -]?") for name in sorted(names, key=len, reverse=True))
        self._named = re.compile(
            rf"(?i)((?<![A-Za-z0-9])(?:{spelled})\\?[\"']?\s*[:=]\s*\\?[\"']?(?:(?:bearer|basic|token)\s+)?+)"
            r"(?!\[redacted\])[^\s\"',;&}\]\\]+"
        )
        self._scheme = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}")
        self._userinfo = re.compile(r"(://)[^/\s:@\"']*:[^/\s@\"']+@")
        self._shapes = re.compile("|".join(_SHAPES))

    def named(self, name: str) -> bool:
        """Whether a field called *name* holds a credential."""
        return _plain(name) in self._names

    def suspicious(self, text: str) -> bool:
        """Whether *text* might hold a credential: a cheap test that may say yes too often, never no too often."""
        if any(hint in text for hint in _HINTS):
            return True
        lowered = text.lower()
        return any(word in lowered for word in self._words)

    def text(self, text: str) -> str:
        """*text* with every credential that is recognised replaced by `[redacted]`."""
        if not self.suspicious(text):
            return text
        text = self._shapes.sub(MASK, text)
        text = self._userinfo.sub(rf"\1{MASK}@", text)
        text = self._scheme.sub(rf"\1 {MASK}", text)
        return self._named.sub(rf"\1{MASK}", text)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
