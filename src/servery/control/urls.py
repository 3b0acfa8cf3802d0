"""URLs of artifacts, as they may be written in a manifest: pure."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https")
_SIGNED = re.compile(r"(?i)^(x-(amz|goog)-.*|sig|signature|token|access_token|key|apikey|api_key|password)$")


def is_url(text: str) -> bool:
    """Whether an artifact's path is none, but a URL."""
    return "://" in text


def wrong(url: str) -> tuple[str, str]:
    """What can't be right about a URL, and what to write instead; ("", "") where nothing is."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        return f"it is no URL: {error}", "write for instance s3://bucket/models/m.onnx"
    if parts.scheme not in SCHEMES:
        return (
            f"{parts.scheme!r} is not where artifacts are fetched from",
            f"use one of {', '.join(SCHEMES)}, or a path",
        )
    named = parts.username is not None and parts.scheme not in ("az", "abfs")  # where a container stands there
    if named or parts.password is not None:
        return "the URL holds credentials", "leave them out, and set the variables that the store's own tools read"
    if any(_SIGNED.match(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        return "the URL holds a signature or a key, which this file would keep and show", "leave it out"
    if not parts.netloc or parts.fragment:
        return f"{plain(url)!r} has no host or bucket, or holds a `#`", "write for instance s3://bucket/models/m.onnx"
    return "", ""


def plain(lies: str) -> str:
    """A path as it is, a URL without what may be secret."""
    if not is_url(lies):
        return lies
    parts = urlsplit(lies)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
