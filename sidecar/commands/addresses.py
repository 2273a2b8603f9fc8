"""The address at which a door of this machine is reached, given the address on which it listens. Pure."""

from __future__ import annotations

from typing import Final

_ANYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def place(host: str, port: int | str) -> str:
    """`HOST:PORT` at which the door is reached. A wildcard address becomes loopback; IPv6 is put in brackets."""
    bare = host.strip().removeprefix("[").removesuffix("]")
    reached = _ANYWHERE.get(bare, bare)
    return f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"
