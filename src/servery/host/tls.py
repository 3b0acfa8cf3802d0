"""A server's side of TLS: from PEM files to what a listener needs."""

from __future__ import annotations

import ssl
from pathlib import Path


class TlsError(Exception):
    """Files that no certificate can be served from; the message names the file and what is wrong."""


def server_side(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate; with `client_ca` only for callers whose certificate it signed. TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load(context, cert, key)
    if client_ca is not None:
        _read(client_ca)
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError:
            raise TlsError(f"{client_ca} holds no certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Have connections from now on get the certificate that lies in these files. TlsError."""
    _read(cert)
    _read(key)
    try:
        context.load_cert_chain(cert, key, password=_none)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key} is not the key of the certificate in {cert}") from None
        raise TlsError(f"{cert} and {key} hold no certificate and key in PEM, or the key has a passphrase") from None


def _none() -> str:
    """No passphrase: without this, OpenSSL would ask for one in the terminal, and wait."""
    return ""


def _read(path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path} can't be read: {error.strerror or error}") from None
