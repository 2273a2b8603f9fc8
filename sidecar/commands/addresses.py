"""Where a door is reached that listens somewhere: for commands that ask the doors of this machine. Pure."""

from __future__ import annotations

from typing import Final

_ANYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def place(host: str, port: int | str) -> str:
    """`HOST:PORT` for an address: one that means all of this machine is reached on loopback, IPv6 has brackets."""
    bare = host.strip().removeprefix("[").removesuffix("]")
    reached = _ANYWHERE.get(bare, bare)
    return f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"
