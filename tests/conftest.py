"""Set-up for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

from sidecar.logs import configure_if_unset

# On a busy machine an example may take long, and that is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell has commands in the background ignore SIGINT, and they hand that on to what they start: the processes under
# test would then not notice a Ctrl-C. A handler, unlike "ignored", is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What the tests talk to is on loopback. A proxy for the outside world, which a company or a sandbox may set, must not
# come between: neither here nor in the programs that the tests start.
for _name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)
for _name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
    os.environ[_name] = "localhost,127.0.0.1,::1"

# structlog's `capture_logs` leaves it configured as it found it. Found unconfigured, it would log to standard output,
# where later tests read what a command printed.
configure_if_unset("text", "info")
