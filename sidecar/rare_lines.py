"""Which of many faults alike get a line in the log: one for each would bury everything else, and fill the disk."""

from __future__ import annotations


def gets_a_line(count: int) -> bool:
    """Whether the 1st, 2nd, 3rd … fault (*count*) is logged: those whose number is a power of two are."""
    return count & (count - 1) == 0
