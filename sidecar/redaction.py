"""Masks credentials once, before an op exists, so that journal, spans, prompts and logs never contain them.

Tokens of known shapes are masked anywhere in a text. `name=value`, `"name": "value"` and `--name value` are masked for
the names in `credentials` and those that the user adds. In URLs names and values are checked after percent-decoding
(`access%5Ftoken=`). Masking is idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_plus

from sidecar.credentials import (
    BOUNDARY,
    FOLDED,
    SHAPES,
    START,
    field_ending,
    hints,
    in_text,
    is_shaped,
    spelled,
    url_ending,
)

MASK = "[redacted]"
_QUOTED = r"(?P<q>[\"'])(?:[^\n\\\"']|\\[^\n]|(?!(?P=q))[\"'])*+"
_ESCAPED = r"(?P<e>\\+[\"'])(?:[^\n\\\"']|(?!(?<!\\)(?P=e))[^\n])*+"
# ^ up to the same quote, or to the line's end if the text was cut off
_LIST = r"\[[^\[\]\n]*+(?:\[[^\[\]\n]*+\][^\[\]\n]*+)*+\]"  # within it one more; the mask itself is a list here
_OBJECT = r"\{[^{}\n]*+(?:\{[^{}\n]*+\}[^{}\n]*+)*+\}"
_COOKIES = rf"(?:{_LIST}|{_OBJECT}|[^\n\"',}}\]])+"
_CREDENTIALS = rf"(?:[A-Za-z][\w-]*[ \t]+)?+(?:{_LIST}|{_OBJECT}|[^\s\"',;&}}\]\\])+"  # a scheme and its credentials
_BARE = rf"(?:(?:bearer|basic|token)\s+)?+(?:{_LIST}|{_OBJECT}|[^\s\"',;&}}\]\\])+"
_MOST_PASSES = 10
_MOST_DECODED = 3  # a URL within a URL within a URL
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_PAIR = re.compile(r"(?:^|(?P<at>[?&;#])|[\s\"'])(?P<name>[^\s?&;#=\"'<>\\]++)=(?P<value>[^\s&#\"'<>\\]++)")
_SCHEME = re.compile(
    r"(?=[Bb])" + START + r"(?:((?i:bearer))\s+[A-Za-z0-9._~+/=\-]{8,}"
    r"|((?i:basic))\s+(?=[A-Za-z][a-z]*[A-Z0-9+/=]|[0-9+/])[A-Za-z0-9+/=_\-]{8,})"  # base64, not a plain word
)
_USERINFO = re.compile(r"(://)[^/?#\s:@\"']*?(?::|(?i:%3a))[^/?#\s\"']+@")
_GAP = (
    r"(?:[ \t]++\\*+[\"']?+|\\*[\"']\s*+,\s*+\\*[\"'])"  # between a flag and its value, in a command or a list of words
)
_FLAG = re.compile(rf"(?<![\w-])--(?P<name>[A-Za-z][\w-]*+){_GAP}(?P<value>(?!-)[^\s\"'\\]++)")
# A user's name ends where another flag may begin: one that went on to the text's end would take quadratic time.
_USER = r"[^\s:\"'\\-]*+(?:(?<=[\w-])-[^\s:\"'\\-]*+)*+"
_LOGIN = re.compile(
    rf"(?<![\w-])(?:-u|--(?:proxy-)?user)(?:=[\"']?+|{_GAP})(?!\d+:\d+(?![^\s\"'])){_USER}:(?P<value>(?!//)[^\s\"'\\]++)"
)
_NOTHING = {"true", "false", "null", "none"}
_MANY = re.compile(r"(?i)[^s]s\Z")
_COUNT = re.compile(r"-?\d[\d.,_]*")
_PASSED = re.compile(r"(?i)(?:\A|[.\[])pass\Z")
_FEW = re.compile(r"\d{1,3}")  # so many tests passed; no password is so short


class Redactor:
    """Masks credentials in text and by field name. Stateless after construction, safe from any thread."""

    def __init__(self, extra_names: Iterable[str] = ()) -> None:
        own = {_plain(name) for name in extra_names if name.strip(" _-")}
        self._hints = dict(hints(own))
        self._words = tuple(self._hints)
        self._ascii_names = all(name.isascii() for name in own)
        self._own = re.compile(rf"(?i){BOUNDARY}(?:{spelled(own)})\Z") if own else None
        self._ending = field_ending(own)
        self._in_urls = url_ending(own)
        self._named = re.compile(
            rf"(?P<name>{in_text(own)}(?:\\*[\"'])?\s*[:=]+>?\s*)"
            rf"(?i:{_QUOTED}|{_ESCAPED}|(?(cookie){_COOKIES}|(?(auth){_CREDENTIALS}|{_BARE})))"
        )

    def named(self, name: str, value: Any = "") -> bool:
        """Whether a field called *name* holds a credential, as far as its *value* does not rule that out."""
        name = _decoded(name)
        return self.suspicious(name) and self._is_field(name, value)

    def named_in_url(self, name: str, value: str = "") -> bool:
        """Whether a query field called *name*, percent-encoded or not, holds a credential."""
        name = _decoded(name).strip(" []")
        return self._in_urls.search(name) is not None and not self._says_little(name, value)

    def _is_field(self, name: str, value: Any) -> bool:
        name = name.strip(" []")
        return self._ending.search(name) is not None and not self._says_little(name, value)

    def _says_little(self, name: str, value: Any) -> bool:
        """Whether *value* is no credential under a built-in *name*: whether there is one, or how many there are."""
        if isinstance(value, str):
            is_little = value.lower() in _NOTHING or self._counts(name, value)
        else:
            is_little = isinstance(value, bool) or (
                isinstance(value, int | float) and (_MANY.search(name) is not None or self._counts(name, str(value)))
            )
        return is_little and (self._own is None or self._own.search(name) is None)

    def _counts(self, name: str, value: str) -> bool:
        if _PASSED.search(name) is not None:
            return _FEW.fullmatch(value) is not None
        return _MANY.search(name) is not None and _COUNT.fullmatch(value) is not None

    def suspicious(self, text: str) -> bool:
        """Whether *text* might hold a credential: a cheap test with false positives, but no false negatives."""
        if is_shaped(text):
            return True
        lowered = text.lower()
        for word in self._words:  # `in` is far cheaper than a pattern, and most texts hold no word
            if word in lowered and self._hints[word].search(lowered) is not None:
                return True
        if "bearer" in lowered or "basic" in lowered or ("://" in text and "@" in text):
            return True
        if "%" in text and _ENCODED.search(text) is not None:
            return True
        if "-" in text and self._has_flags(text):
            return True
        return not text.isascii() and self._unusual(text)

    def _has_flags(self, text: str) -> bool:
        if "-u" in text and _LOGIN.search(text) is not None:
            return True
        return "--" in text and any(self._is_field(found["name"], found["value"]) for found in _FLAG.finditer(text))

    def _unusual(self, text: str) -> bool:
        return not self._ascii_names or FOLDED[0] in text or FOLDED[1] in text or FOLDED[2] in text

    def text(self, text: str) -> str:
        """*text* with every recognised credential replaced by `[redacted]`."""
        if not self.suspicious(text):
            return text
        for _ in range(_MOST_PASSES):  # masking one credential may let another pattern match
            masked = self.masked(text)
            if masked == text:
                break
            text = masked
        return text

    def masked(self, text: str) -> str:
        """*text* after one pass of every pattern, without the cheap test."""
        text = self._plainly_masked(text)
        return _PAIR.sub(self._pair, text) if "=" in text else text

    def _plainly_masked(self, text: str) -> str:
        if is_shaped(text):
            text = SHAPES.sub(MASK, text)
        text = _USERINFO.sub(rf"\1{MASK}@", text)
        text = _SCHEME.sub(lambda found: f"{found[1] or found[2]} {MASK}", text)
        if "-" in text and self._has_flags(text):
            text = _FLAG.sub(self._flag, _LOGIN.sub(_value_masked, text))
        return self._named.sub(self._member, text)

    def _member(self, found: re.Match[str]) -> str:
        """Mask the value of one `name: value`."""
        name, quote = found["name"], found["q"] or found["e"] or ""
        value = found[0][len(name) :]
        if not quote and self._says_little(name.rstrip(" \t\r\n:=>\"'\\"), value):
            return found[0]
        return f"{name}{quote}{MASK}"

    def _flag(self, found: re.Match[str]) -> str:
        return _value_masked(found) if self._is_field(found["name"], found["value"]) else found[0]

    def _pair(self, found: re.Match[str]) -> str:
        """Mask the value of one `name=value` in a URL, if name or value reveal a credential once decoded."""
        if self._is_secret(found) or self._hides(found["value"]):
            return _value_masked(found)
        return found[0]

    def _is_secret(self, pair: re.Match[str]) -> bool:
        if pair["at"] is not None:
            return self.named_in_url(pair["name"], pair["value"])
        return "%" in pair["name"] and self.named(pair["name"], pair["value"])

    def _hides(self, value: str) -> bool:
        """Whether *value* holds a credential that is only recognisable once decoded."""
        if "%" not in value:
            return False
        text = _decoded(value)
        if not self.suspicious(text):
            return False
        if self._plainly_masked(text) != text:
            return True
        return any(self._is_secret(pair) for pair in _PAIR.finditer(text))


def _value_masked(found: re.Match[str]) -> str:
    return found[0][: found.start("value") - found.start()] + MASK


def _decoded(text: str) -> str:
    for _ in range(_MOST_DECODED):
        if "%" not in text:
            break
        text = unquote_plus(text)
    return text


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
