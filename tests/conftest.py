"""Set-up for all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# On a busy machine an example may take long, and that is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell has commands in the background ignore SIGINT, and they hand that on to what they start: the processes under
# test would then not notice a Ctrl-C. A handler, unlike "ignored", is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
