"""Trust in the observer's own certificate, for the commands that ask it over TLS."""

from __future__ import annotations

import ssl


def pinned(certificate: str) -> ssl.SSLContext:
    """Trust in that one PEM *certificate*, whatever names it holds: it is reached by an address. Raises OSError."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
