"""How the data folder's bytes are divided."""

from __future__ import annotations

from typing import NamedTuple


class Shares(NamedTuple):
    """Bytes of the data folder by purpose. *state*: the SQLite file, its copy, and damaged pieces kept aside."""

    ops: int
    decisions: int
    spool: int
    state: int


def shares(max_bytes: int) -> Shares:
    """Divide *max_bytes*: a half, a sixteenth, a quarter, and the rest."""
    ops, decisions, spool = max_bytes // 2, max_bytes // 16, max_bytes // 4
    return Shares(ops, decisions, spool, max_bytes - ops - decisions - spool)


def segment_bytes(share: int) -> int:
    """The segment size of a journal with *share* bytes: a sixteenth, but from 1 to 64 MiB."""
    return min(max(share // 16, 2**20), 2**26)
