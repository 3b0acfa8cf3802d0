"""JSON is UTF-8 (RFC 8259, 8.1), also where it is passed on without being looked at. Pure."""

from __future__ import annotations


def check_utf8(body: bytes) -> None:
    """UnicodeDecodeError."""
    if not body.isascii():
        body.decode()
