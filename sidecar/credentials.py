"""What is recognised as a credential: the names of fields, and the shapes of tokens. `redaction` masks them.

docs/guarantees.md lists the same for users. Not a credential here: `session_id`. It names an agent's session, by which
operations are joined into a task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final


class Where(Enum):
    """Where a name is that of a credential. All but `WHOLE` may have a prefix (`db_password`, `dbPassword`)."""

    ANYWHERE = auto()  # a field, and `name: value` in prose
    FIELD = auto()  # a field: a member of JSON, `name=value`, a feature; in prose, what follows is rather a message
    WHOLE = auto()  # a field of just this name: as a part of a name the word means something else
    URL = auto()  # a field of an address: signed links of cloud providers and the like


NAMES: Final[dict[Where, tuple[str, ...]]] = {
    Where.ANYWHERE: (
        "access_key(s)",
        "access_token(s)",
        "account_key(s)",
        "admin_pass",
        "api_key(s)",
        "auth_key(s)",
        "auth_token(s)",
        "authorization",
        "client_secret(s)",
        "cookie",
        "db_pass",
        "decryption_key(s)",
        "encryption_key(s)",
        "id_token",
        "mail_pass",
        "master_key(s)",
        "otp_code(s)",
        "passcode(s)",
        "passphrase(s)",
        "passwd(s)",
        "password(s)",
        "private_key(s)",
        "proxy_authorization",
        "pwd(s)",
        "refresh_token(s)",
        "secret(s)",
        "secret_key(s)",
        "session_key(s)",
        "session_token",
        "set_cookie",
        "shared_access_signature(s)",
        "signing_key(s)",
        "smtp_pass",
        "ssh_key(s)",
        "subscription_key(s)",
        "token",
        "user_pass",
        "x_api_key",
    ),
    Where.FIELD: (
        "connection_string(s)",
        "credential(s)",
        "jwt(s)",
    ),
    Where.WHOLE: ("auth", "cookies", "otp", "pass", "pin", "token(s)"),
    Where.URL: ("auth", "aws_access_key_id", "sig", "signature"),
}
"""Words are parted by `_`, `-`, a space, a capital or nothing. `(s)`: the plural too, unless its value is a count."""

START: Final = r"(?:\b|(?<=\\[bfnrt]))"  # start of a word, also after an escaped line end in JSON


def _behind(begun: str) -> str:
    """*begun*, with `START` asserted behind it: the regex engine finds a literal prefix far faster."""
    back = "." * len(begun)
    return rf"{begun}(?:(?<!\w{back})|(?<=\\[bfnrt]{back}))"


_KEY = r"(?:-[\w-]{16,}|_(?:live|test)_\w{10,})"  # OpenAI, Anthropic, Langfuse and similar keys; Stripe
_SHAPES = (  # each begins with a literal letter, so that one pass searches for all of them
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    # A JSON web token may not start inside a run of its characters: that would take quadratic time.
    r"eyJ(?:(?<![\w-]...)|(?<=\\[bfnrt]...))[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",
    *(_behind(letter + "k") + _KEY for letter in "srp"),
    _behind("gh") + r"[pousr]_\w{20,}",  # GitHub
    _behind("gith") + r"ub_pat_\w{20,}",
    _behind("gl") + r"pat-[\w-]{16,}",  # GitLab
    _behind("xox") + r"[abeoprs]-[\w-]{10,}",  # Slack
    _behind("xapp") + r"-[\w-]{10,}",
    r"s(?<=hooks\.slack\.com/s)ervices/[\w/]{10,}",
    *(_behind(name) + r"[0-9A-Z]{16}\b" for name in ("AKIA", "ASIA")),  # AWS
    _behind("AIza") + r"[\w-]{30,}",  # Google
    _behind("ya29") + r"\.[\w.-]{16,}",
    _behind("SG") + r"\.[\w-]{10,}\.[\w-]{10,}",  # SendGrid
    _behind("hf") + r"_\w{20,}",  # Hugging Face
    _behind("npm") + r"_\w{20,}",
    _behind("do") + r"[opr]_v1_\w{20,}",  # DigitalOcean
    _behind("gsk") + r"_\w{20,}",  # Groq
    _behind("hvs") + r"\.[\w-]{20,}",  # Vault
)
_HINTS = ("eyJ", "AKIA", "ASIA", "AIza")
_MARKED_HINTS = (
    (".", ("ya29.", "SG.", "hvs.", "hooks.slack")),
    ("-", ("-----BEGIN", "k-", "pat-", "xox", "xapp-")),
    ("_", ("k_", "pat_", "hf_", "npm_", "_v1_")),
    ("gh", tuple(f"gh{kind}_" for kind in "pousr")),
)
"""Every shape above contains one of these. Hints are grouped by a mark that most texts do not contain."""

SHAPES: Final = re.compile("|".join(_SHAPES))


def is_shaped(text: str) -> bool:
    """Whether *text* holds a token of a known shape."""
    return _is_hinted(text) and SHAPES.search(text) is not None


def _is_hinted(text: str) -> bool:
    for hint in _HINTS:  # plain loops: twice as fast as any() here, on a path that every op takes
        if hint in text:
            return True
    for mark, hints in _MARKED_HINTS:
        if mark in text:
            for hint in hints:
                if hint in text:
                    return True
    return False


BOUNDARY: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?-i:(?<=[a-z0-9])(?=[A-Z])))"
_BEHIND_FIRST = r"(?:(?<![A-Za-z0-9].)|(?<=\\[bfnrt].)|(?-i:(?<=[a-z0-9][A-Z])))"  # the same, one letter later
_WHOLE_BEHIND_FIRST = r"(?:(?<![\w-].)|(?<=\\[bfnrt].)|(?<=--.)(?<![\w-]--.))"  # or `--pass=`
_AS_FIELD = r"(?=\\*[\"']|=| ++=(?!=))"  # `name=`, `name = ` or a quoted name; not a comparison
_ENDS = r"[ \[\]]*+(?:[\"'\\=\n]|\Z)"  # a name of a field ends, in a text or in names joined by line ends
FOLDED: Final = "\u017f\u0131\u0130"  # letters that case-insensitive matching treats as s and i, but lower() does not


def spelled(names: Iterable[str]) -> str:
    """A pattern of all spellings of *names*, the longest first."""
    return "|".join(_spelling(name) for name in sorted(names, key=len, reverse=True))


def _spelling(name: str) -> str:
    many = name.endswith("(s)")
    return re.escape(name.removesuffix("(s)")).replace("_", "[_ -]?") + ("s?" if many else "")


def field_ending(own: Iterable[str]) -> re.Pattern[str]:
    """Matches the end of a field's name if it is that of a credential; *own* are names that the user adds."""
    return re.compile(rf"(?i){_endings(own)}")


def url_ending(own: Iterable[str]) -> re.Pattern[str]:
    """The same for a field of a URL."""
    return re.compile(rf"(?i){BOUNDARY}(?:{spelled(NAMES[Where.URL])})\Z|{_endings(own)}")


def _endings(own: Iterable[str]) -> str:
    names = {*NAMES[Where.ANYWHERE], *NAMES[Where.FIELD], *own}
    return rf"{BOUNDARY}(?:{spelled(names)})\Z|(?:\A|(?<=[.\[]))(?:{spelled(NAMES[Where.WHOLE])})\Z"


def in_text(own: Iterable[str]) -> str:
    """A pattern of a name in a text, with the groups *cookie* and *auth* for the two whose values have many words."""
    anywhere = {*NAMES[Where.ANYWHERE], *own}
    names = {*anywhere, *NAMES[Where.FIELD], *NAMES[Where.WHOLE]}
    return (
        rf"{_first_letters(names)}(?i:{_BEHIND_FIRST}(?:(?P<cookie>(?:(?<=s)et[_ -]?c|(?<=c))ookie)"
        rf"|(?P<auth>(?<=a)uthorization)|{_spelled_behind_first(anywhere)}"
        rf"|(?:{_spelled_behind_first(NAMES[Where.FIELD])}"
        rf"|{_WHOLE_BEHIND_FIRST}(?:{_spelled_behind_first(NAMES[Where.WHOLE])})){_AS_FIELD}))"
    )


def _first_letters(names: Iterable[str]) -> str:
    """A character class of the first letters of *names*, in both cases: the regex is tried at no other place."""
    letters = {name.lstrip("_")[0] for name in names}
    if not all(letter.isascii() for letter in letters):
        return r"[\s\S]"
    alike = [other for letter in letters for other in (letter, letter.upper(), *FOLDED, "\u212a")]
    return f"[{''.join(sorted({re.escape(other) for other in alike}))}]"


def _spelled_behind_first(names: Iterable[str]) -> str:
    """Like `spelled`, but matching after the first letter of each name, which is checked by look-behind."""
    rests: dict[str, list[str]] = {}
    for name in sorted((name.lstrip("_") for name in names), key=len, reverse=True):
        rests.setdefault(name[0], []).append(_spelling(name[1:]))
    return "|".join(f"(?<={re.escape(first)})(?:{'|'.join(rest)})" for first, rest in rests.items())


def hints(own: Iterable[str]) -> list[tuple[str, re.Pattern[str]]]:
    """Pairs of a word and a pattern; a lower-case text that names a credential has one of the words, and matches."""
    patterns = [(name, _spelling(name) + r"(?![a-z0-9])") for name in (*NAMES[Where.ANYWHERE], *own)]
    patterns += [(name, _spelling(name) + _ENDS) for name in NAMES[Where.FIELD]]
    patterns += [(name, _whole(_spelling(name))) for name in NAMES[Where.WHOLE]]
    patterns += [(name, f"{_spelling(name)}=") for name in NAMES[Where.URL]]
    patterns.sort(key=lambda each: len(each[0]))  # a short name is a hint at longer ones
    found: dict[str, list[str]] = {}
    for name, pattern in patterns:
        found.setdefault(_hint(name, found), []).append(pattern)
    return [(word, re.compile("|".join(each))) for word, each in found.items()]


def _whole(name: str) -> str:
    """A pattern of *name* as a whole field: before a quote or `=` in a text, or alone in names joined by line ends."""
    first, rest = name[0], name[1:]  # it begins with a letter, for speed, and with no run of characters
    return rf"{first}(?:(?<![a-z0-9_-].)|(?<=\\[bfnrt].)|(?<=--.)){rest}{_ENDS}"


def _hint(name: str, chosen: Iterable[str]) -> str:
    """A word that every spelling of *name* contains: one of those *chosen* if possible, else a part of the name."""
    name = name.removesuffix("(s)")
    return next((word for word in chosen if word in name), name.split("_")[-1])
