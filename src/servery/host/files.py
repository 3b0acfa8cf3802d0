"""How many files and connections this process may have open at once."""

from __future__ import annotations

import resource

_WANTED = 65_536  # the connections of as many callers as are let in, those of their models, and room


def open_many() -> None:
    """As many as the system lets this user have, up to what may be needed: the usual 1,024 are 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
