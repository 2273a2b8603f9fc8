"""Remembers how far a Langfuse server was when it showed each observation: a replica that lags shows an older one."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from sidecar.langfuse.judged_ops import MOST_OPS
from sidecar.model import Fragment

_MOST: Final = MOST_OPS  # others cannot be amended any more


class LastShown:
    """The time of the latest row of each of the last 4096 observations shown, since the start of the process."""

    def __init__(self) -> None:
        self._told_ns: OrderedDict[str, int] = OrderedDict()

    def is_older(self, row: Fragment) -> bool:
        """Whether a later row of that observation was shown before; if none was, *row* is remembered."""
        key = row.trace_id + row.span_id
        last_ns = self._told_ns.get(key, 0)
        self._told_ns[key] = max(last_ns, row.told_ns)
        self._told_ns.move_to_end(key)
        if len(self._told_ns) > _MOST:
            self._told_ns.popitem(last=False)
        return row.told_ns < last_ns
