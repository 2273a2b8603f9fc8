"""Fingerprints: two failures are the same if endpoint, error code and masked message are equal.

`fingerprint` is pure. Its masks follow Sentry's order (email, URL, host, IP, traceparent, UUID, hash, date, duration,
hex, number), then ids such as `HAT030` and quoted strings. `VERSION` changes with every change of a mask, so that
fingerprints of two versions are never equal. `Fingerprints` adds a template tree, which learns the words that vary.
A template has the fingerprint of its first message, so an existing incident keeps its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Final

from sidecar.analysis.stack_trace import without_frames
from sidecar.analysis.template_tree import TemplateTree
from sidecar.model import ObservedOp
from sidecar.normalize import clean_text

VERSION: Final = 2
MAX_MESSAGE: Final = 1000  # characters
MAX_ENDPOINT: Final = 256
_MAX_ERROR_TYPE = 100
_MAX_PASSES = 8
_MAX_KNOWN = 1024  # messages

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}+"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:\ ?(?:Z|[AaPp][Mm])\b|[+-]\d{2}:?\d{2})?"
_TLD = (
    "com|net|org|io|dev|app|cloud|edu|gov|info|biz|ai|co|uk|de|eu|us|ca|au|fr|ch|nl|jp|local|internal|localdomain|lan|corp"
    "|svc|example|test|invalid"
)
# Quoted names after these words are kept, as they tell causes apart: schema objects, a missing key.
_SCHEMA = "column|relation|constraint|table|index|sequence|schema|KeyError:"
_POD = "[bcdfghjklmnpqrstvwxz2456789]"  # Kubernetes uses no vowels in generated names

_EMAIL = r"[\w.+-]{1,64}+@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
_HOST = rf"(?:[A-Za-z0-9-]{{1,63}}+\.){{1,8}}(?:{_TLD})\b(?::\d+)?"
_IPV6 = r"(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b|(?:[0-9a-fA-F]{1,4}:){1,6}(?::[0-9a-fA-F]{1,4}){1,6}\b"
_NUM = r"[+-]?(?:\d{1,3}(?:,\d{3})+\b|\d+)(?:\.\d+)*+(?:[eE][+-]?\d+)?(?!\w)"
_DATE = (
    rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_TIME})?(?!\d)|\d{{1,4}}/\d{{1,2}}/\d{{1,4}}\b|{_TIME}(?![\d:])"
    rf"|\d{{1,2}}\ {_MONTH}\b(?:\ \d{{4}}\b)?"
)
_QUOTED = (
    r"''(?!')|\"\"(?!\")"
    r"|\"[^\"\s]{1,200}+(?:\ [^\"\s]{1,200}+){0,2}\"(?!\w)|'[^'\s]{1,200}+(?:\ [^'\s]{1,200}+){0,2}'(?!\w)"
)
_HEXES: Final = (  # may begin with a letter or a digit
    ("traceparent", r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b"),
    ("uuid", r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"),
    ("hash", r"(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{40}|[0-9a-fA-F]{32})\b"),
)
_HEX = r"(?=[a-fA-F]*+\d)(?=\d*+[a-fA-F])[0-9a-fA-F]{8,}+\b"
# mia_li_3668; JIRA-123; 12A; HAT030, NO6JO3; ch_3NqLk2eZv: letters mixed with digits as in no natural word
_ID = (
    r"\d{1,4}[A-Z]\b|[A-Za-z]\w{0,80}?_\d+\b"
    rf"|[a-z][a-z0-9.-]{{0,60}}?-(?:{_POD}{{8,10}}-{_POD}{{5}}|(?=[a-z]*\d){_POD}{{5}})\b"
    r"|(?!(?i:utf|iso|sha|x86|latin|base|ipv|http|cp|md)-)[A-Za-z][A-Za-z-]{0,40}?-\d+\b"
    r"|[A-Z]{2,}+-\d+\b|(?=[A-Z]*+\d[A-Z]*+\d)(?=\d*+[A-Z]\d*+[A-Z])[A-Z0-9]{4,}+\b"
    r"|(?=[A-Za-z_-]*+\d[A-Za-z_-]*+\d[A-Za-z_-]*+\d)(?=[\d_-]*+[A-Za-z])[\w-]{8,}+"
)
# Words of letters alone, which most are, are skipped at once, except those that can begin one of the shapes.
_BEGINNERS = rf"(?:{_MONTH}\ \d|status|HTTP|localhost|{_SCHEMA})"
_WORD = rf"(?!(?!{_BEGINNERS})[A-Za-z]++(?:(?![\w@.:+-])|[.:](?=\s|$)))"

# Keyed by a word's first character; shapes only begin at words, so a pass is linear. The first match wins.
_SHAPES: Mapping[str, Sequence[tuple[str, str]]] = {
    rf"(?=[A-Za-z_]){_WORD}": (
        ("kept", r"(?:status(?:[ _]?code)?|HTTP(?:/[\d.]{1,3})?)[ :=]{1,3}[1-5]\d\d\b"),
        ("kept", rf"(?:{_SCHEMA})\ ['\"`][A-Za-z_]{{1,63}}+['\"`]"),
        ("email", _EMAIL),
        ("url", r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}+://[^\s\"'<>)\]}]+"),
        ("host", rf"{_HOST}|localhost\b(?::\d+)?"),
        ("ip", _IPV6),
        *_HEXES,
        ("date", rf"{_MONTH}\ \d{{1,2}}\b(?:,?\ \d{{4}}\b)?"),
        ("hex", _HEX),
        ("id", _ID),
    ),
    r"(?=\d)": (
        ("kept", r"[45]\d\d(?=,?\ [A-Z][a-z]|,\ message=)"),
        ("email", _EMAIL),
        ("host", _HOST),
        ("ip", rf"\d{{1,3}}(?:\.\d{{1,3}}){{3}}(?![.\d])(?::\d+)?|{_IPV6}"),
        *_HEXES,
        ("date", _DATE),
        (
            "duration",
            r"\d+(?:\.\d+)?(?:[smhd]\b|\ ?(?:[nuµm]s|secs?|seconds?|mins?|minutes?|hours?|days?|milliseconds?)\b)",
        ),
        ("size", r"\d+(?:\.\d+)?\ ?(?:[KMGTkmgt]i?[Bb]|[KMGT]i|bytes?)\b"),
        ("hex", rf"0[xX][0-9a-fA-F]+\b|{_HEX}"),
        ("num", _NUM),
        ("id", _ID),
    ),
    "(?=['\"])": (
        ("kept", r"(?:(?<=[{,])|(?<=[{,]\ ))\"[^\"]{1,60}\"\s?:|['\"][45]\d\d\ [A-Z][\w\ -]{2,40}['\"]"),
        ("str", _QUOTED),
    ),
    "(?=/)": (
        ("path", r"(?:/[\w.%@~+-]{1,200}+){2,20}+/?(?:\?[^\s\"']{0,500}+)?(?::\d+){0,2}"),
        ("path", r"/[\w.%-]{0,200}+\?[^\s\"']{1,500}+"),
    ),
    r"(?=[<.+:-])": (("kept", "<[a-z]+>"), ("email", _EMAIL), ("host", _HOST), ("num", _NUM), ("ip", r"::1\b")),
}


def _compiled() -> re.Pattern[str]:
    """One pattern of all shapes; a group is named by its mask and a number."""
    number = count()
    branches = [
        begins + "(?:" + "|".join(f"(?P<{name}{next(number)}>{shape})" for name, shape in shapes) + ")"
        for begins, shapes in _SHAPES.items()
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(branches)})")


_MASKS = _compiled()
_MASKABLE = re.compile(rf"[\d@\"'/:]|\.(?:{_TLD})\b|localhost")
_ANY_MASK = re.compile(r"<[a-z]+>")  # the kind of the masked value does not tell causes apart
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def fingerprint(op: ObservedOp) -> tuple[str, str]:
    """(id, masked message) of the failure *op*. The id is `v<version>-` and 16 hex digits, a pure function of *op*.

    Only the first `MAX_MESSAGE` characters of the message and `MAX_ENDPOINT` of the endpoint count.
    """
    message = without_frames(op.error or op.output_summary)[:MAX_MESSAGE]
    return _fingerprint(op.endpoint[:MAX_ENDPOINT], (op.error_type or "")[:_MAX_ERROR_TYPE], message)


def kind_fingerprint(endpoint: str, kind: str) -> str:
    """The id of an incident of this *kind* at *endpoint*, for incidents without an error message."""
    return _id(kind, endpoint[:MAX_ENDPOINT])


class Fingerprints:
    """Fingerprints by masks and templates. Caches recent raw messages, since most failures are repetitions.

    `tree` holds the state and is saved like the books of this room; `tree.take_renamed` returns the ids that were
    replaced by others. For one thread.
    """

    def __init__(self, tree: TemplateTree) -> None:
        self.tree = tree
        self._known: dict[tuple[str, str | None, str], tuple[str, str]] = {}
        self._version = tree.version

    def find(self, op: ObservedOp) -> tuple[str, str]:
        """(id, template) of the failure *op*; the tree learns varying words from its message."""
        message = op.error or op.output_summary
        known = self._known.get((op.endpoint, op.error_type, message))
        if known is not None:
            return known
        short, code = op.endpoint[:MAX_ENDPOINT], (op.error_type or "")[:_MAX_ERROR_TYPE]
        found = self.tree.find(short, code, *reversed(fingerprint(op)))
        if self.tree.version != self._version or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
            self._version = self.tree.version
        if len(message) <= MAX_MESSAGE and len(op.endpoint) <= MAX_ENDPOINT:
            self._known[op.endpoint, op.error_type, message] = found
        return found


@lru_cache(maxsize=1024)  # failures repeat
def _fingerprint(endpoint: str, error_type: str, message: str) -> tuple[str, str]:
    masked = mask(message)
    return _id(endpoint, error_type, _ANY_MASK.sub("<>", masked)), masked


def _id(*parts: str) -> str:
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8)
    return f"v{VERSION}-{digest.hexdigest()}"


def mask(message: str) -> str:
    """*message* with its particulars replaced by `<num>`, `<date>`, `<id>` …; idempotent."""
    text = " ".join(one_line(message, MAX_MESSAGE).split())
    if not _MASKABLE.search(text):
        return text
    return _masked_until_stable(_MASKS.sub(_replacement, text)[:MAX_MESSAGE].strip())


@lru_cache(maxsize=4096)  # masked messages are mostly equal
def _masked_until_stable(text: str) -> str:
    """*text*, masked once, masked until nothing changes: a mask can expose another, and truncation can shorten one."""
    for _ in range(_MAX_PASSES):
        masked = _MASKS.sub(_replacement, text)[:MAX_MESSAGE].strip()
        if masked == text:
            break
        text = masked
    return text


def one_line(text: str, most: int) -> str:
    """The first *most* characters of *text* on one line, without control characters and lone surrogates."""
    text = text[:most]
    if not text.isprintable():
        text = _CONTROL.sub(" ", clean_text(text))
    return text.strip()


def _replacement(match: re.Match[str]) -> str:
    return _REPLACED[match.lastgroup or ""] or match[0]


_REPLACED: Final = {
    name: "" if name.startswith("kept") else f"<{name.rstrip('0123456789')}>" for name in _MASKS.groupindex
}
