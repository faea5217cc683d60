"""TLS for clients: verify the server's certificate chain and host name."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def verifying_context(
    ca_certificates: Path | str | None, certificate: Path | str | None, certificate_key: Path | str | None
) -> ssl.SSLContext:
    """Return a context that verifies chain and host name.

    Args:
        ca_certificates: PEM file of the authorities to trust; None for the system's.
        certificate: PEM file of the client certificate; None to present none.
        certificate_key: PEM file of its key; None if the certificate's file contains it.
    """
    context = ssl.create_default_context(cafile=ca_certificates)
    if certificate is not None:
        context.load_cert_chain(certificate, certificate_key)
    return context
