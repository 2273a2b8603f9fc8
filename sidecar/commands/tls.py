"""Trust in the observer's own certificate, for commands that call it over TLS."""

from __future__ import annotations

import ssl


def pinned(certificate: str) -> ssl.SSLContext:
    """A context that trusts only the PEM *certificate*, whatever its names: we connect by address. Raises OSError."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
