"""What an agent is told when it calls a tool of `observer mcp` with wrong arguments: what, why and the fix, in words.

The SDK would hand on pydantic's own text: several lines for one value, with types' internal names and a web address.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import msgspec

EXPECTED: Final = {
    "endpoint": "text, as in /tools/fill_shift",
    "facts": "an object with the arguments that you intend to send",
    "task": "text",
    "given": "a list of names",
    "exposure_id": "text, the `exposure_id` that came with the advice",
    "success": "true or false",
    "limit": "a whole number",
    "state": "states of incidents, as in new,ongoing",
}
"""What each argument of a tool is."""
_EXPECTED_WITHIN = {"facts": "text, a number, true or false", "given": "text"}
_MOST = 5  # problems told
_MOST_SHOWN = 60  # characters of a value, or of a name


def wrong_arguments(tool: str, errors: Iterable[Mapping[str, Any]]) -> str:
    """The text for pydantic's *errors* on the arguments of *tool*; each value is mentioned once."""
    told: dict[str, None] = {}
    for error in errors:
        argument, *inside = error["loc"][:2]
        name = f"{argument}.{_cut(str(inside[0]))}" if inside else str(argument)
        if error["type"] == "missing":
            told[f"`{name}` is missing: {tool} needs it ({EXPECTED[argument]})"] = None
        else:
            expected = _EXPECTED_WITHIN[argument] if inside else EXPECTED[argument]
            told[f"`{name}` is {_shown(error['input'])}: expected {expected}"] = None
    return f"{'; '.join(list(told)[:_MOST])}. Correct it, and call {tool} again"


def unknown_arguments(tool: str, unknown: Collection[str], known: Collection[str]) -> str:
    """The text for arguments that *tool* does not have: the SDK would pass over them in silence."""
    first = min(unknown)
    near = difflib.get_close_matches(first, known, n=1)
    fix = f"Did you mean `{near[0]}`?" if near else f"It has {', '.join(f'`{name}`' for name in known)}"
    if not near and "facts" in known:
        fix += "; arguments that you intend to send belong into `facts`"
    return f"`{_cut(first)}` is not usable: {tool} has no such argument. {fix}"


def unknown_tool(name: str, known: Iterable[str]) -> str:
    """The text for a tool that does not exist."""
    return f"{_shown(name)} is not usable: there is no such tool. The tools are {', '.join(known)}"


def _shown(value: object) -> str:
    try:
        return _cut(msgspec.json.encode(value).decode())
    except (TypeError, ValueError, RecursionError):  # what JSON cannot say: a lone surrogate
        return _cut(ascii(value))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
