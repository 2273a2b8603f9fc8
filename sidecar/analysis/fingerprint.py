"""What makes two failures the same: endpoint, error code and the message without its particulars.

`fingerprint` is pure. Its masks follow Sentry's order (email, URL, host, IP, traceparent, UUID, hash, date, duration,
hex, number), then ids such as `HAT030` and quoted strings. `VERSION` changes whenever a mask does: fingerprints of
two versions never meet. `Fingerprints` goes on where the masks end, with a template tree that learns which words vary;
a template's fingerprint is that of its first message, so an incident keeps its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from sidecar.analysis.template_tree import TemplateTree
from sidecar.model import ObservedOp
from sidecar.normalize import clean_text

VERSION: Final = 1
MAX_MESSAGE: Final = 1000  # characters
MAX_ENDPOINT: Final = 256
_MAX_ERROR_TYPE = 100
_MAX_PASSES = 8
_MAX_KNOWN = 1024  # messages

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}+"
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:\ ?(?:Z|[AaPp][Mm])\b|[+-]\d{2}:?\d{2})?"
_TLD = "com|net|org|io|dev|app|edu|gov|info|biz|ai|co|uk|de|eu|us|local|internal|localdomain|svc|example|test"

# Each begins at the start of a word (`_MASKS` says so once), which keeps one pass linear. The first that fits wins.
_SHAPES: Mapping[str, str] = {
    "kept": r"<[a-z]+>|(?<=[{,])\ ?\"[^\"]{1,60}\"\s?:",  # a mask already, or a JSON key
    "email": r"[\w.+-]{1,64}+@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}",
    "url": r"[a-zA-Z][a-zA-Z0-9+.-]{1,15}+://[^\s\"'<>)\]}]+",
    "host": rf"(?:[A-Za-z0-9-]{{1,63}}+\.){{1,8}}(?:{_TLD})\b(?::\d+)?|localhost\b(?::\d+)?",
    "ip": r"\d{1,3}(?:\.\d{1,3}){3}(?![.\d])(?::\d+)?"
    r"|(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b|(?:[0-9a-fA-F]{1,4}:){1,6}(?::[0-9a-fA-F]{1,4}){1,6}\b|::1\b",
    "traceparent": r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b",
    "uuid": r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b",
    "hash": r"(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{40}|[0-9a-fA-F]{32})\b",
    "date": rf"\d{{4}}-\d{{2}}-\d{{2}}(?:[T ]{_TIME})?(?!\d)|\d{{1,4}}/\d{{1,2}}/\d{{1,4}}\b|{_TIME}(?![\d:])"
    rf"|{_MONTH}\ \d{{1,2}}\b(?:,?\ \d{{4}}\b)?|\d{{1,2}}\ {_MONTH}\b(?:\ \d{{4}}\b)?",
    "duration": r"\d+(?:\.\d+)?(?:[smhd]\b|\ ?(?:[nuµm]s|secs?|seconds?|mins?|minutes?|hours?|days?|milliseconds?)\b)",
    "size": r"\d+(?:\.\d+)?\ ?(?:[KMGTkmgt]i?[Bb]|bytes?)\b",
    "hex": r"0[xX][0-9a-fA-F]+\b|(?=[a-fA-F]*+\d)(?=\d*+[a-fA-F])[0-9a-fA-F]{8,}+\b",
    "num": r"[+-]?(?:\d{1,3}(?:,\d{3})+\b|\d+)(?:\.\d+)*+(?:[eE][+-]?\d+)?(?!\w)",
    # mia_li_3668; JIRA-123; HAT030 and NO6JO3; ch_3NqLk2eZv: letters with digits, as no word of a language has them
    "id": r"(?:[A-Za-z]\w{0,80}?_\d+\b|[A-Z]{2,}+-\d+\b|(?=[A-Z]*+\d[A-Z]*+\d)(?=\d*+[A-Z]\d*+[A-Z])[A-Z0-9]{4,}+\b"
    r"|(?=[A-Za-z_-]*+\d[A-Za-z_-]*+\d[A-Za-z_-]*+\d)(?=[\d_-]*+[A-Za-z])[\w-]{8,}+)",
    "str": r"\"[^\"\s]{1,200}+(?:\ [^\"\s]{1,200}+){0,2}\"(?!\w)|'[^'\s]{1,200}+(?:\ [^'\s]{1,200}+){0,2}'(?!\w)",
}
_MASKS = re.compile(rf"(?<!\w)(?:{'|'.join(f'(?P<{name}>{shape})' for name, shape in _SHAPES.items())})")
_MASKABLE = re.compile(rf"[\d@\"'/:]|\.(?:{_TLD})\b|localhost")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def fingerprint(op: ObservedOp) -> tuple[str, str]:
    """(id, masked message) of the failure *op*. The id is `v<version>-` and 16 hex digits; it depends on nothing else.

    Only the first `MAX_MESSAGE` characters of the message and `MAX_ENDPOINT` of the endpoint count.
    """
    message = (op.error or op.output_summary)[:MAX_MESSAGE]
    return _fingerprint(op.endpoint[:MAX_ENDPOINT], (op.error_type or "")[:_MAX_ERROR_TYPE], message)


def kind_fingerprint(endpoint: str, kind: str) -> str:
    """The id of what is no failure and has no message: an incident of this *kind* at *endpoint*."""
    return _id(kind, endpoint[:MAX_ENDPOINT])


class Fingerprints:
    """Fingerprints by masks and templates. Remembers the last messages as they came: most failures are repetitions.

    `tree` keeps the state, and is saved like the books of this room; `tree.take_renamed` tells which ids given out
    before are another's now. For one thread.
    """

    def __init__(self, tree: TemplateTree) -> None:
        self.tree = tree
        self._known: dict[tuple[str, str | None, str], tuple[str, str]] = {}
        self._version = tree.version

    def find(self, op: ObservedOp) -> tuple[str, str]:
        """(id, template) of the failure *op*, whose varying words the tree learns by it."""
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


@lru_cache(maxsize=1024)  # the same failure comes again and again: that is why there are incidents
def _fingerprint(endpoint: str, error_type: str, message: str) -> tuple[str, str]:
    masked = mask(message)
    return _id(endpoint, error_type, masked), masked


def _id(*parts: str) -> str:
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8)
    return f"v{VERSION}-{digest.hexdigest()}"


def mask(message: str) -> str:
    """*message* with its particulars replaced by `<num>`, `<date>`, `<id>` …; masking twice changes nothing."""
    text = one_line(message, MAX_MESSAGE)
    if not _MASKABLE.search(text):
        return text
    # A mask can lay bare another, and the cut can end one early: go on until nothing changes.
    for _ in range(_MAX_PASSES):
        masked = _MASKS.sub(_masked, text)[:MAX_MESSAGE].strip()
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


def _masked(match: re.Match[str]) -> str:
    return match[0] if match.lastgroup == "kept" else f"<{match.lastgroup}>"
