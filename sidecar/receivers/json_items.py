"""Reads a JSON list item by item, because a megabyte of text can become a hundred megabytes of objects.

The values in a body are counted before any is decoded; then each item stays text until its turn comes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from io import BytesIO
from typing import Any, Final

import msgspec

from sidecar.errors import InvalidInputError, TooLargeError
from sidecar.receivers.bodies import parse_json

MOST_VALUES: Final = 250_000
"""Bound on the values of one item: at worst 45 MiB of objects. A number in an OTLP list counts as two."""
_VALUE_STARTS: Final = b"{[,"  # each value but the first follows one of these
_SLICE: Final = 1 << 20  # bytes counted before other tasks get a turn: two milliseconds
_LARGE: Final = 64 * 1024  # bytes; larger items are decoded in a thread
_TURN_S: Final = 0.0015

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_MOST_ESCAPES: Final = 250_000  # each becomes a small object for a while

_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def bound_values(body: bytes, most: int) -> None:
    """Raise TooLargeError if JSON *body* may have over *most* values; characters inside strings count as well."""
    if len(body) <= most:
        return
    count = 0
    for start in range(0, len(body), _SLICE):
        count += sum(body.count(sign, start, start + _SLICE) for sign in _VALUE_STARTS)
        if count > most:
            raise _too_many(most)
        await asyncio.sleep(0)


def read_value(value: Any) -> Any:
    """*value* decoded, if it is still text. Raises MalformedError; TooLargeError over `MOST_VALUES`."""
    if not isinstance(value, bytes | msgspec.Raw):
        return value
    text = bytes(value)
    if len(text) > MOST_VALUES and sum(text.count(sign) for sign in _VALUE_STARTS) > MOST_VALUES:
        raise _too_many(MOST_VALUES)
    return parse_json(text)


def without_lone_surrogates(text: bytes) -> bytes:
    """JSON *text* with escaped halves of surrogate pairs replaced by U+FFFD; as it is if it has very many escapes."""
    if text.count(b"\\") > _MOST_ESCAPES:
        return text
    clean, at = BytesIO(), 0
    view = memoryview(text)
    for found in _ESCAPE.finditer(text):
        if found[1]:
            clean.write(view[at : found.start()])
            clean.write(rb"\ufffd")
            at = found.end()
    clean.write(view[at:])
    return clean.getvalue()


def items_of(value: Any) -> Any:
    """The items of a list, still as text; if the fast decoder finds no list, *value* decoded by `read_value`."""
    if isinstance(value, bytes | msgspec.Raw):
        try:
            return _raws.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # not a list, or with something this decoder rejects, such as lone surrogates
    return read_value(value)


class InTurns:
    """Decodes items one by one and lets other tasks run; large items are decoded in a thread, one at a time."""

    def __init__(self) -> None:
        self._large = asyncio.Lock()

    async def values(self, items: Iterable[Any]) -> AsyncGenerator[Any, None]:
        """Yield each of *items* decoded, or the InvalidInputError that says why it cannot be."""
        time = asyncio.get_running_loop().time
        began = time()
        for item in items:
            if isinstance(item, msgspec.Raw) and len(memoryview(item)) > _LARGE:
                async with self._large:
                    yield await asyncio.to_thread(_value_or_error, item)
            else:
                yield _value_or_error(item)
            if time() - began > _TURN_S:
                await asyncio.sleep(0)
                began = time()


def _value_or_error(item: Any) -> Any:
    try:
        return read_value(item)
    except InvalidInputError as exc:
        return exc


def _too_many(most: int) -> TooLargeError:
    return TooLargeError(f"the JSON may have over {most} values", "no more are read at once", "Send fewer at a time")
