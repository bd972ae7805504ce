"""TLS of the API: the check of its certificate before the start."""

import ssl
from pathlib import Path

from core.errors import StartError
from core.settings import Settings, variable


def check(settings: Settings) -> None:
    """Checks that certificate and key can be used together. Does nothing without TLS.

    Raises:
        StartError: a file cannot be read, is none of its kind, or the key belongs to another certificate.
    """
    if not settings.tls_cert:
        return
    for field, path in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise StartError(f"{variable(field)}={path} can't be read: {error.strerror}") from error
    try:
        # The callback answers the question for a passphrase, which would otherwise wait at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise StartError(
            f"{variable('tls_cert')} and {variable('tls_key')} are no certificate and its key, in PEM and without a "
            f"passphrase: {error}"
        ) from error
