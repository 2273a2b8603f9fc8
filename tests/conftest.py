"""Set-up for all tests.

Tests that run the same lines thousands of times are marked `no_cover`: coverage more than doubles their time, and other
tests cover those lines.
"""

from __future__ import annotations

import signal

# A shell has commands in the background ignore SIGINT, and they hand that on to what they start: the processes under
# test would then not notice a Ctrl-C. A handler, unlike "ignored", is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
