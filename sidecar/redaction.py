"""Masks credentials once, before an op exists, so that journal, spans, prompts and logs never contain them.

Tokens of known shapes are masked anywhere in a text. `name=value` and `"name": "value"` are masked for the names below
and those the user adds, also with a prefix (`db_password`, `dbPassword`). In URLs names and values are checked after
percent-decoding (`access%5Ftoken=`). Masking is idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

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
_START = r"(?:\b|(?<=\\[bfnrt]))"  # start of a word, also after an escaped line end in JSON
_BEHIND = {count: rf"(?:(?<!\w{'.' * count})|(?<=\\[bfnrt]{'.' * count}))" for count in (2, 3, 4)}
"""`_START`, asserted some characters into the word: the regex engine finds a literal prefix far faster."""
_KEY = _BEHIND[2] + r"(?:-[\w-]{16,}|_(?:live|test)_\w{10,})"  # OpenAI, Anthropic, Langfuse and similar keys; Stripe
_SHAPES = (  # each begins with a literal letter, so that one pass searches for all of them
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    # A JSON web token may not start inside a run of its characters: that would take quadratic time.
    r"eyJ(?:(?<![\w-]...)|(?<=\\[bfnrt]...))[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    *(letter + "k" + _KEY for letter in "srp"),
    "gh" + _BEHIND[2] + r"[pousr]_\w{20,}",
    "gith" + _BEHIND[4] + r"ub_pat_\w{20,}",
    "gl" + _BEHIND[2] + r"pat-[\w-]{16,}",
    "xox" + _BEHIND[3] + r"[abeoprs]-[\w-]{10,}",  # Slack
    *(name + _BEHIND[4] + r"[0-9A-Z]{16}\b" for name in ("AKIA", "ASIA")),  # AWS
    "AIza" + _BEHIND[4] + r"[\w-]{30,}",  # Google
    "hf" + _BEHIND[2] + r"_\w{20,}",  # Hugging Face
)
_HINTS = ("eyJ", "AKIA", "ASIA", "AIza")
_MARKED_HINTS = (
    ("-", ("-----BEGIN", "k-", "pat-", "xox")),
    ("_", ("k_", "pat_", "hf_")),
    ("gh", tuple(f"gh{kind}_" for kind in "pousr")),
)
"""Every shape above contains one of these. Hints are grouped by a mark that most texts do not contain."""


_BOUNDARY = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?-i:(?<=[a-z0-9])(?=[A-Z])))"
_BEHIND_FIRST = r"(?:(?<![A-Za-z0-9].)|(?<=\\[bfnrt].)|(?-i:(?<=[a-z0-9][A-Z])))"  # the same, one letter later
_QUOTED = r"(?P<q>[\"'])(?:[^\n\\\"']|\\[^\n]|(?!(?P=q))[\"'])*+"
_ESCAPED = r"(?P<e>\\+[\"'])(?:[^\n\\\"']|(?!(?<!\\)(?P=e))[^\n])*+"
# ^ up to the same quote, or to the line's end if the text was cut off
_COOKIES = r"(?:\[redacted\]|[^\n\"',}\]])+"
_CREDENTIALS = r"(?:[A-Za-z][\w-]*[ \t]+)?+(?:\[redacted\]|[^\s\"',;&}\]\\])+"  # a scheme and its credentials
_BARE = r"(?:(?:bearer|basic|token)\s+)?+(?:\[[^\[\]\n]*\]|\{[^{}\n]*\}|[^\s\"',;&}\]\\])+"
_FOLDED = "\u017f\u0131\u0130"  # letters that case-insensitive matching treats as s and i, but lower() does not
_MOST_PASSES = 10
_MOST_DECODED = 3  # a URL within a URL within a URL
_IN_URLS = (  # names that mean a credential only in a URL: signed links of cloud providers and the like
    "sig",
    "signature",
    "credential",
    "access_key",
    "aws_access_key_id",
    "subscription_key",
    "auth",
    "jwt",
    "pwd",
)
_URL_HINTS = tuple(f"{name.split('_')[-1]}=" for name in _IN_URLS)
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_PAIR = re.compile(r"(?:^|(?P<at>[?&;#])|[\s\"'])(?P<name>[^\s?&;#=\"'<>\\]++)=(?P<value>[^\s&#\"'<>\\]++)")


class Redactor:
    """Masks credentials in text and by field name. Stateless after construction, safe from any thread."""

    def __init__(self, extra_names: Iterable[str] = ()) -> None:
        names = {*_NAMES, *(_plain(name) for name in extra_names if name.strip(" _-"))}
        # The cheap test comes first: most texts hold no credential, and `in` is far cheaper than a regex.
        words = {name.split("_")[-1] for name in names} | {"bearer", "basic", "://"}
        self._words = tuple(sorted(word for word in words if not any(w in word for w in words - {word})))
        self._ascii_names = all(name.isascii() for name in names)
        self._ending = re.compile(rf"(?i){_BOUNDARY}(?:{_spelled(names)})\Z")
        self._named = re.compile(
            rf"(?P<name>{_first_letters(names)}(?i:{_BEHIND_FIRST}(?:(?P<cookie>(?:(?<=s)et[_ -]?c|(?<=c))ookie)"
            rf"|(?P<auth>(?<=a)uthorization)|{_spelled_behind_first(names)}))(?:\\*[\"'])?\s*[:=]+>?\s*)"
            rf"(?i:{_QUOTED}|{_ESCAPED}|(?(cookie){_COOKIES}|(?(auth){_CREDENTIALS}|{_BARE})))"
        )
        self._in_urls = re.compile(rf"(?i){_BOUNDARY}(?:{_spelled({*names, *_IN_URLS})})\Z")
        self._scheme = re.compile(
            r"(?=[Bb])" + _START + r"(?:((?i:bearer))\s+[A-Za-z0-9._~+/=\-]{8,}"
            r"|((?i:basic))\s+(?=[A-Za-z][a-z]*[A-Z0-9+/=]|[0-9+/])[A-Za-z0-9+/=_\-]{8,})"  # base64, not a plain word
        )
        self._userinfo = re.compile(r"(://)[^/?#\s:@\"']*?(?::|(?i:%3a))[^/?#\s\"']+@")
        self._shapes = re.compile("|".join(_SHAPES))

    def named(self, name: str) -> bool:
        """Whether a field called *name* holds a credential."""
        name = _decoded(name)
        return self.suspicious(name) and self._ending.search(name.strip(" []")) is not None

    def named_in_url(self, name: str) -> bool:
        """Whether a query field called *name*, percent-encoded or not, holds a credential."""
        return self._in_urls.search(_decoded(name).strip(" []")) is not None

    def suspicious(self, text: str) -> bool:
        """Whether *text* might hold a credential: a cheap test with false positives, but no false negatives."""
        if _shaped(text):
            return True
        lowered = text.lower()
        for word in self._words:
            if word in lowered:
                return True
        if ("=" in text or "%" in text) and _coded(text, lowered):
            return True
        return not text.isascii() and self._unusual(text)

    def _unusual(self, text: str) -> bool:
        return not self._ascii_names or _FOLDED[0] in text or _FOLDED[1] in text or _FOLDED[2] in text

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
        if _shaped(text):
            text = self._shapes.sub(MASK, text)
        text = self._userinfo.sub(rf"\1{MASK}@", text)
        text = self._scheme.sub(lambda found: f"{found[1] or found[2]} {MASK}", text)
        return self._named.sub(lambda found: f"{found['name']}{found['q'] or found['e'] or ''}{MASK}", text)

    def _pair(self, found: re.Match[str]) -> str:
        """Mask the value of one `name=value` in a URL, if name or value reveal a credential once decoded."""
        if self._is_secret(found["name"], in_url=found["at"] is not None) or self._hides(found["value"]):
            return found[0][: found.start("value") - found.start()] + MASK
        return found[0]

    def _is_secret(self, name: str, *, in_url: bool) -> bool:
        if in_url:
            return self.named_in_url(name)
        return "%" in name and self.named(name)

    def _hides(self, value: str) -> bool:
        """Whether *value* holds a credential that is only recognisable once decoded."""
        if "%" not in value:
            return False
        text = _decoded(value)
        if not self.suspicious(text):
            return False
        if self._plainly_masked(text) != text:
            return True
        return any(self._is_secret(pair["name"], in_url=pair["at"] is not None) for pair in _PAIR.finditer(text))


def _shaped(text: str) -> bool:
    """Whether *text* might hold a token of a known shape."""
    for hint in _HINTS:  # plain loops: twice as fast as any() here, on a path that every op takes
        if hint in text:
            return True
    for mark, hints in _MARKED_HINTS:
        if mark in text:
            for hint in hints:
                if hint in text:
                    return True
    return False


def _coded(text: str, lowered: str) -> bool:
    """Whether *text* might be a URL that contains a credential, plain or encoded."""
    for hint in _URL_HINTS:
        if hint in lowered:
            return True
    return "%" in text and _ENCODED.search(text) is not None


def _decoded(text: str) -> str:
    for _ in range(_MOST_DECODED):
        if "%" not in text:
            break
        text = unquote_plus(text)
    return text


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _first_letters(names: Iterable[str]) -> str:
    """A character class of the first letters of *names*, in both cases: the regex is tried at no other place."""
    letters = {name.lstrip("_")[0] for name in names}
    if not all(letter.isascii() for letter in letters):
        return r"[\s\S]"
    alike = [other for letter in letters for other in (letter, letter.upper(), *_FOLDED, "\u212a")]
    return f"[{''.join(sorted({re.escape(other) for other in alike}))}]"


def _spelled_behind_first(names: Iterable[str]) -> str:
    """Like `_spelled`, but matching after the first letter of each name, which is checked by look-behind."""
    rests: dict[str, list[str]] = {}
    for name in sorted((name.lstrip("_") for name in names), key=len, reverse=True):
        rests.setdefault(name[0], []).append(re.escape(name[1:]).replace("_", "[_ -]?"))
    return "|".join(f"(?<={re.escape(first)})(?:{'|'.join(rest)})" for first, rest in rests.items())


def _spelled(names: Iterable[str]) -> str:
    return "|".join(re.escape(name).replace("_", "[_ -]?") for name in sorted(names, key=len, reverse=True))
